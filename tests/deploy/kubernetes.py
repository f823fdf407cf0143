"""deploy/kubernetes: manifests that a server takes, that belong together, and whose commands and settings our programs take.

kubectl, kubernetes-validate and jsonschema are those of `make test-deploy`; what needs one that is not there is skipped."""
import lzma
import os
import re
import shutil

import pytest
import yaml

import emoe_tools as tools
from fake_cluster import Cluster

FOLDER = tools.ROOT / "deploy" / "kubernetes"
OVERLAYS = sorted(path.name for path in (FOLDER / "overlays").iterdir())
MPIJOB_SCHEMA = tools.SHARED / "fixtures" / "crds" / "kubeflow.org_mpijobs.yaml.xz"  # the MPI operator's own, not ours


def documents(text):
    return [document for document in yaml.safe_load_all(text) if document]


def rendered(name):
    if not shutil.which("kubectl"):
        pytest.skip("kubectl is not installed (make test-deploy gets it)")
    return tools.run(["kubectl", "kustomize", FOLDER / "overlays" / name]).expect().out


@pytest.fixture(params=OVERLAYS)
def overlay(request):
    return request.param


def of_kind(objects, kind):
    return [found for found in objects if found["kind"] == kind]


def pod_templates(objects):
    """(name, labels and spec of the pods) of all that make some."""
    for found in objects:
        if "template" in found.get("spec", {}):
            yield found["metadata"]["name"], found["spec"]["template"]
        for role, replica in found.get("spec", {}).get("mpiReplicaSpecs", {}).items():
            yield f"{found['metadata']['name']} {role}", replica["template"]


def mpijobs():
    return documents((FOLDER / "mpijob.yaml").read_text(encoding="utf-8"))


# ---------------------------------------------------------------- schemas
def test_kubernetes_knows_every_key(overlay, tmp_path):
    if not shutil.which("kubernetes-validate"):
        pytest.skip("kubernetes-validate is not installed (make test-deploy gets it)")
    file = tmp_path / "rendered.yaml"
    file.write_text(rendered(overlay), encoding="utf-8")
    tools.run(["kubernetes-validate", "--strict", "-k", "1.30", file]).expect()


def strict(schema):
    """The same with unknown keys as errors; a server drops them without a word."""
    if isinstance(schema, dict):
        if "properties" in schema:
            schema.setdefault("additionalProperties", False)
        for value in schema.values():
            strict(value)
    elif isinstance(schema, list):
        for value in schema:
            strict(value)
    return schema


def mpijob_schema(folder):
    if not MPIJOB_SCHEMA.exists():
        pytest.skip(f"no schema of MPIJob in {MPIJOB_SCHEMA}")
    if not shutil.which("jsonschema"):
        pytest.skip("jsonschema is not installed (make test-deploy gets it)")
    crd = yaml.load(lzma.open(MPIJOB_SCHEMA), Loader=yaml.CSafeLoader)
    schema = strict(crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}
    return tools.write_json(folder / "schema.json", schema)


def check_mpijob(job, folder, schema):
    tools.run(["jsonschema", "-i", tools.write_json(folder / "job.json", job), schema]).expect()


def test_the_mpi_operator_knows_every_key(tmp_path):
    file = mpijob_schema(tmp_path)
    job, = of_kind(mpijobs(), "MPIJob")
    check_mpijob(job, tmp_path, file)
    job["spec"]["slotPerWorker"] = 2
    found = tools.run(["jsonschema", "-i", tools.write_json(tmp_path / "broken.json", job), file]).expect(1)
    assert "slotPerWorker" in found.text, "the check itself must find an unknown key"


def test_the_mpijob_is_one_as_the_operator_wants_it():
    job, = of_kind(mpijobs(), "MPIJob")
    assert job["apiVersion"] == "kubeflow.org/v2beta1"
    replicas = job["spec"]["mpiReplicaSpecs"]
    assert set(replicas) == {"Launcher", "Worker"} and replicas["Launcher"]["replicas"] == 1
    assert job["spec"]["runPolicy"]["cleanPodPolicy"] in ("None", "Running", "All")
    assert {replica["restartPolicy"] for replica in replicas.values()} <= {"Never", "OnFailure"}
    assert re.fullmatch("[a-z]([-a-z0-9]{0,54}[a-z0-9])?", job["metadata"]["name"]), "NAME-worker-N is a DNS label"


@pytest.fixture(scope="module", params=["mpijobs", "tls"])
def launched(request, tmp_path_factory):
    """The MPIJob that a coordinator with the settings of the overlay creates."""
    folder = tmp_path_factory.mktemp("launched")
    objects = documents(rendered(request.param))
    files = next(found["data"] for found in of_kind(objects, "ConfigMap") if "pods.yaml" in found["data"])
    settings = yaml.safe_load(files["coordinator-config.yaml"])["launcher"]["kubernetes"]
    (folder / "pods.yaml").write_text(files["pods.yaml"], encoding="utf-8")
    settings.update(template=folder / "pods.yaml", gpus_per_rank=1, queue="emoe")
    keys = {f"launcher__kubernetes__{key}": value for key, value in settings.items()}
    with Cluster(folder / "cluster") as cluster, cluster.coordinator(folder, **keys) as coordinator:
        coordinator.api.create(tools.tiny_job(parallel__ranks=2))
        return cluster.store.objects["mpijobs"][tools.wait_until(cluster.api.names, 60, "an MPIJob")[0]]


def test_what_the_launcher_creates_has_keys_that_the_operator_knows(launched, tmp_path):
    check_mpijob({key: value for key, value in launched.items() if key != "status"}, tmp_path, mpijob_schema(tmp_path))


def test_what_the_launcher_creates_makes_pods_that_kubernetes_knows(launched, tmp_path):
    if not shutil.which("kubernetes-validate"):
        pytest.skip("kubernetes-validate is not installed (make test-deploy gets it)")
    pods = [{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod", **template["metadata"]}, "spec": template["spec"]}
            for _, template in pod_templates([launched])]
    file = tmp_path / "pods.yaml"
    file.write_text(yaml.safe_dump_all(pods), encoding="utf-8")
    tools.run(["kubernetes-validate", "--strict", "-k", "1.30", file]).expect()


def test_what_the_launcher_creates_has_what_the_overlay_gives(launched):
    assert launched["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "emoe" and launched["spec"]["runPolicy"]["suspend"]
    for name, template in pod_templates([launched]):
        pod = template["spec"]
        container, = pod["containers"]
        assert {"name": "data", "mountPath": "/data"} in container["volumeMounts"], name
        assert {"name": "data", "persistentVolumeClaim": {"claimName": "emoe-data"}} in pod["volumes"], name
        assert container["image"] == "emoe-worker:0.1.0" and container["securityContext"]["readOnlyRootFilesystem"]
    worker = launched["spec"]["mpiReplicaSpecs"]["Worker"]["template"]["spec"]["containers"][0]
    assert worker["resources"]["limits"] == {"cpu": "1", "memory": "8Gi", "nvidia.com/gpu": "1"}


def test_tls_has_its_files_where_they_are_looked_for():
    """The coordinator its pair and tokens; ranks the authority, and never the key."""
    objects = documents(rendered("tls"))
    files = next(found["data"] for found in of_kind(objects, "ConfigMap") if "pods.yaml" in found["data"])
    settings, pods = yaml.safe_load(files["coordinator-config.yaml"]), yaml.safe_load(files["pods.yaml"])["pods"]["spec"]
    assert "allow_insecure" not in settings
    pod = of_kind(objects, "StatefulSet")[0]["spec"]["template"]["spec"]
    mounts = {mount["mountPath"]: mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
    secrets = {volume["name"]: volume["secret"]["secretName"] for volume in pod["volumes"] if "secret" in volume}
    for path, secret in ((settings["tls"]["certificate"], "emoe-tls"), (settings["tls"]["key"], "emoe-tls"),
                         (settings["auth"]["tokens"], "emoe-tokens")):
        assert secrets[mounts[os.path.dirname(path)]] == secret, path
    folder, name = os.path.split(settings["tls"]["ranks_ca"])
    volume, = (volume for volume in pods["volumes"] if volume["name"] == "ca")
    assert volume["secret"]["items"] == [{"key": "ca.crt", "path": name}]
    assert all({"name": "ca", "mountPath": folder, "readOnly": True} in container["volumeMounts"] for container in pods["containers"])


# ---------------------------------------------------------------- what belongs together
def check_references(objects):
    names = {(found["kind"], found["metadata"]["name"]) for found in objects}
    templates = list(pod_templates(objects))
    for name, template in templates:
        for volume in template["spec"].get("volumes", []):
            claim, config = volume.get("persistentVolumeClaim"), volume.get("configMap")
            assert not claim or ("PersistentVolumeClaim", claim["claimName"]) in names, name
            assert not config or ("ConfigMap", config["name"]) in names, name
        volumes = {volume["name"] for volume in template["spec"].get("volumes", [])}
        for container in template["spec"]["containers"]:
            assert {mount["name"] for mount in container.get("volumeMounts", [])} <= volumes, name
        account = template["spec"].get("serviceAccountName")
        assert not account or ("ServiceAccount", account) in names, name
    for binding in of_kind(objects, "RoleBinding"):
        assert ("Role", binding["roleRef"]["name"]) in names
        assert all((subject["kind"], subject["name"]) in names for subject in binding["subjects"])
    labels = [template["metadata"]["labels"] for _, template in templates]
    for selector in [found["spec"]["selector"] for kind in ("Service", "StatefulSet", "PodDisruptionBudget")
                     for found in of_kind(objects, kind)]:
        wanted = selector.get("matchLabels", selector)
        assert any(wanted.items() <= found.items() for found in labels), selector
    for service in of_kind(objects, "Service"):
        ports = {port["name"] for _, template in templates for c in template["spec"]["containers"] for port in c["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports


def test_what_is_named_is_there(overlay):
    objects = documents(rendered(overlay))
    check_references(objects)
    everywhere = {"Namespace", "ResourceFlavor", "ClusterQueue"}
    assert all(found["metadata"].get("namespace") == "emoe" for found in objects if found["kind"] not in everywhere)
    assert not of_kind(objects, "ClusterRole") and not of_kind(objects, "ClusterRoleBinding")


def test_the_mpijob_names_what_is_there():
    check_references(mpijobs())


def test_monitors_look_at_pods_and_ports_that_are_there():
    monitors = documents(rendered("monitoring"))
    pods = [template for _, template in pod_templates([*mpijobs(), *documents(rendered("cpu"))])]
    ports = {port["name"] for pod in pods for container in pod["spec"]["containers"] for port in container.get("ports", [])}
    for monitor in [*of_kind(monitors, "ServiceMonitor"), *of_kind(monitors, "PodMonitor")]:
        wanted = monitor["spec"]["selector"]["matchLabels"]
        assert any(wanted.items() <= pod["metadata"]["labels"].items() for pod in pods)
        endpoints = monitor["spec"].get("endpoints") or monitor["spec"]["podMetricsEndpoints"]
        assert {endpoint["port"] for endpoint in endpoints} <= ports
        assert {rule["replacement"] for e in endpoints for rule in e["relabelings"]} <= {"emoe-coordinator", "emoe-ranks"}


def test_the_operator_gets_the_rules_that_promtool_tested():
    shipped = yaml.safe_load((FOLDER / "overlays" / "monitoring" / "prometheus-rule.yaml").read_text(encoding="utf-8"))
    rules = yaml.safe_load((tools.ROOT / "deploy" / "prometheus" / "rules.yml").read_text(encoding="utf-8"))
    assert shipped["spec"] == rules, (
        "make it anew: cd deploy/kubernetes/overlays/monitoring && { sed '/^spec:/q' prometheus-rule.yaml; "
        "sed 's/^./  &/' ../../../prometheus/rules.yml; } >new && mv new prometheus-rule.yaml")


# ---------------------------------------------------------------- habits
def test_pods_are_closed_and_get_time_to_checkpoint(overlay):
    objects = documents(rendered(overlay))
    for name, template in pod_templates(objects):
        pod = template["spec"]
        assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["seccompProfile"], name
        # Only a coordinator that makes MPIJobs speaks to the API server.
        asks = name == "emoe-coordinator" and overlay in ("mpijobs", "tls")
        assert pod["terminationGracePeriodSeconds"] >= 600 and pod["automountServiceAccountToken"] is asks, name
        for container in pod["containers"]:
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"] and not context["allowPrivilegeEscalation"], name
            assert context["capabilities"] == {"drop": ["ALL"]} and container["resources"]["limits"]["memory"], name
            ranks = "Worker" in name or "coordinator" in name
            assert not ranks or any(mount["mountPath"] == "/dev/shm" for mount in container["volumeMounts"]), name
            assert "Worker" not in name or "livenessProbe" not in container, "a rank that is busy is not dead"


# ---------------------------------------------------------------- our programs
@pytest.mark.parametrize("which, before", [("gpu", ["emoe-init"]), ("mpijobs", []), ("tls", [])])
def test_the_coordinator_takes_its_settings(tmp_path, which, before):
    """The arguments and the file of an overlay, with paths that are there."""
    objects = documents(rendered(which))
    container, = of_kind(objects, "StatefulSet")[0]["spec"]["template"]["spec"]["containers"]
    settings = yaml.safe_load(of_kind(objects, "ConfigMap")[0]["data"]["coordinator-config.yaml"])
    assert container["args"][:len(before) + 2] == [*before, "emoe-coordinator", "--config"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert settings["listen"].endswith(f":{ports['grpc']}") and settings["metrics_listen"].endswith(f":{ports['metrics']}")
    settings.update(allowed_roots=[str(tmp_path)], state_dir=str(tmp_path / "state"), listen="no address")
    file = tools.write_yaml(tmp_path / "coordinator.yaml", settings)
    refused = tools.run([tools.COORDINATOR, "--config", file, *container["args"][len(before) + 3:]]).expect(tools.USAGE)
    assert refused.text.count("coordinator.yaml:") == 1 and "listen" in refused.text, refused.text


def test_the_mpijob_trains(tmp_path):
    """Its own command on its own spec, with this build's worker in the place of the image's."""
    objects = mpijobs()
    launcher, = of_kind(objects, "MPIJob")[0]["spec"]["mpiReplicaSpecs"]["Launcher"]["template"]["spec"]["containers"]
    script, ranks, _, out_option, _ = launcher["args"]
    job = tmp_path / "job.yaml"
    job.write_text(of_kind(objects, "ConfigMap")[0]["data"]["job.yaml"], encoding="utf-8")
    program = tmp_path / script
    text = (tools.ROOT / "deploy" / "docker" / script).read_text(encoding="utf-8")
    program.write_text(text.replace("/opt/emoe/bin/", f"{tools.BIN}/"), encoding="utf-8")
    tools.run(["sh", program, ranks, job, out_option, tmp_path / "out", "--set", "train.max_steps=3"], cwd=tools.ROOT,
              env={"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}).expect()
    assert len(tools.read_lines(tmp_path / "out" / "metrics.jsonl")) == 3
    assert (tmp_path / "out" / "export" / "model" / "config.json").exists()


def test_links_are_whole():
    assert os.path.islink(FOLDER / "mpijob.yaml") and (FOLDER / "mpijob.yaml").exists()
