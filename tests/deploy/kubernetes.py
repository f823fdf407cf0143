"""deploy/kubernetes: manifests that a server takes, that belong together, and whose commands and settings our programs take.

kubectl, kubernetes-validate and jsonschema are those of `make test-deploy`; what needs one that is not there is skipped."""
import lzma
import os
import re
import shutil

import pytest
import yaml

import emoe_tools as tools

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


def test_the_mpi_operator_knows_every_key(tmp_path):
    if not MPIJOB_SCHEMA.exists():
        pytest.skip(f"no schema of MPIJob in {MPIJOB_SCHEMA}")
    if not shutil.which("jsonschema"):
        pytest.skip("jsonschema is not installed (make test-deploy gets it)")
    crd = yaml.load(lzma.open(MPIJOB_SCHEMA), Loader=yaml.CSafeLoader)
    schema = strict(crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}
    file = tools.write_json(tmp_path / "schema.json", schema)
    job, = of_kind(mpijobs(), "MPIJob")
    tools.run(["jsonschema", "-i", tools.write_json(tmp_path / "job.json", job), file]).expect()
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
        assert pod["terminationGracePeriodSeconds"] >= 600 and pod["automountServiceAccountToken"] is False, name
        for container in pod["containers"]:
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"] and not context["allowPrivilegeEscalation"], name
            assert context["capabilities"] == {"drop": ["ALL"]} and container["resources"]["limits"]["memory"], name
            ranks = "Worker" in name or "coordinator" in name
            assert not ranks or any(mount["mountPath"] == "/dev/shm" for mount in container["volumeMounts"]), name
            assert "Worker" not in name or "livenessProbe" not in container, "a rank that is busy is not dead"


# ---------------------------------------------------------------- our programs
def test_the_coordinator_takes_its_settings(tmp_path):
    """The arguments and the file of the GPU overlay (the one with more of them), with paths that are there."""
    objects = documents(rendered("gpu"))
    container, = of_kind(objects, "StatefulSet")[0]["spec"]["template"]["spec"]["containers"]
    settings = yaml.safe_load(of_kind(objects, "ConfigMap")[0]["data"]["coordinator-config.yaml"])
    assert container["args"][:3] == ["emoe-init", "emoe-coordinator", "--config"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert settings["listen"].endswith(f":{ports['grpc']}") and settings["metrics_listen"].endswith(f":{ports['metrics']}")
    settings.update(allowed_roots=[str(tmp_path)], state_dir=str(tmp_path / "state"), listen="no address")
    file = tools.write_yaml(tmp_path / "coordinator.yaml", settings)
    refused = tools.run([tools.COORDINATOR, "--config", file, *container["args"][4:]]).expect(tools.USAGE)
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
