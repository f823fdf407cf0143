"""What stands behind the fake API server: the MPI operator, a scheduler and nodes. The launcher pod of an MPIJob is a process that
runs its container's own command; its mpirun starts the ranks here, without ssh. A worker pod is its ranks among them.
"""
import contextlib
import copy
import os
import pathlib
import signal
import subprocess
import threading
import time

import emoe_tools as tools
from emoe_api import Coordinator
from fake_kubernetes import NAMESPACE, ApiServer, mark_for_deletion, now

JOB_NAME, ROLE, INDEX = (f"training.kubeflow.org/{key}" for key in ("job-name", "job-role", "replica-index"))
ROOT_MAY = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}


def condition(found, type_, status="True", reason="", message=""):
    conditions = [c for c in found["status"].get("conditions", []) if c["type"] != type_]
    conditions.append({"type": type_, "status": status, "reason": reason, "message": message, "lastTransitionTime": now()})
    found["status"]["conditions"] = conditions


def has(found, type_):
    return any(c["type"] == type_ and c["status"] == "True" for c in found["status"].get("conditions", []))


class Cluster:
    """An API server with everything behind it. `problem` keeps pods from running: "unschedulable", "image"; `places`: for how many
    worker pods there are nodes (None: for all); `operator` False: there is none."""

    def __init__(self, folder, **options):
        self.folder = pathlib.Path(folder)
        self.api = ApiServer(self.folder / "api", **options)
        self.store = self.api.store
        self.marker = tools.new_marker()
        key, value = self.marker.split("=")
        self.env = {key: value, **ROOT_MAY}
        self.problem, self.places, self.operator, self.closing = "", None, True, False
        self.unreachable = set()  # pods whose node does not answer
        self.processes, self.deadlines, self.launched = {}, {}, []  # by the pod's uid; names of launcher pods that ran
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.closing = True
        self.thread.join()
        tools.kill_marked(self.marker)
        for process in self.processes.values():
            process.wait()
        self.api.close()

    def coordinator(self, folder, **settings):
        """A coordinator that starts its jobs here, and whose ranks wait at its hold points."""
        made = Coordinator(folder, **{
            "slots": 0, "launcher__kind": "kubernetes", "launcher__kubernetes__server": self.api.url,
            "launcher__kubernetes__ca_file": self.api.ca, "launcher__kubernetes__token_file": self.api.token_file,
            "launcher__kubernetes__namespace": NAMESPACE, "launcher__kubernetes__image": "emoe-worker:test",
            "launcher__kubernetes__grace_period": "20s", "launcher__kubernetes__request_limit": "5s", **settings})
        self.env.update(made.holds.env)
        return made

    # ------------------------------------------------------------ what a test does
    def pod(self, role="launcher"):
        """The name of the first pod of this role, once there is one."""
        return tools.wait_until(lambda: next((name for name in self.api.names("pods") if f"-{role}" in name), None), 30,
                                lambda: f"a {role} among {self.api.names('pods')}")

    @contextlib.contextmanager
    def changing(self, kind, name):
        with self.store.changed:
            found = self.store.objects[kind][name]
            yield found
            self.store.note(kind, "MODIFIED", found)

    def disrupt(self, name, reason, message=""):
        """As the eviction API, the scheduler or the taint manager do it: a word, then a deletion with the pod's grace."""
        with self.changing("pods", name) as pod:
            condition(pod, "DisruptionTarget", reason=reason, message=message)
        with self.store.changed:
            mark_for_deletion(self.store, "pods", pod, pod["spec"].get("terminationGracePeriodSeconds", 30))

    def evict_for_pressure(self, name, message):
        """As a node that is short of something: no grace."""
        with self.store.changed:
            pod = self.store.objects["pods"][name]
            self.kill(pod)
            pod["status"].update(phase="Failed", reason="Evicted", message=message)
            self.store.note("pods", "MODIFIED", pod)

    def suspend(self, name, suspended=True):
        with self.changing("mpijobs", name) as job:
            job["spec"]["runPolicy"]["suspend"] = suspended

    def ranks(self, pod):
        """Process ids of the ranks that this worker pod stands for."""
        job = self.store.objects["mpijobs"].get(pod["metadata"]["labels"][JOB_NAME])
        if job is None:
            return []
        folder, slots = job["metadata"]["annotations"]["emoe/attempt-folder"], job["spec"]["slotsPerWorker"]
        first = int(pod["metadata"]["labels"][INDEX]) * slots
        wanted = [f"OMPI_COMM_WORLD_RANK={rank}" for rank in range(first, first + slots)]
        found = []
        for pid, command in tools.marked_processes(f"EMOE_ATTEMPT_DIR={folder}").items():
            with contextlib.suppress(OSError):
                variables = pathlib.Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
                if "emoe-worker run" in command and "emoe-supervise" not in command and set(variables) & set(wanted):
                    found.append(pid)
        return found

    # ------------------------------------------------------------ the loop
    def run(self):
        while not self.closing:
            with self.store.changed:
                for job in list(self.store.objects["mpijobs"].values()):
                    if self.operator and "deletionTimestamp" not in job["metadata"]:
                        self.reconcile(job)
                for pod in list(self.store.objects["pods"].values()):
                    self.tend(pod)
                for job in list(self.store.objects["mpijobs"].values()):
                    self.collect(job)
                self.store.changed.wait(0.05)

    def pods_of(self, job):
        return [pod for pod in self.store.objects["pods"].values()
                if pod["metadata"]["labels"][JOB_NAME] == job["metadata"]["name"]]

    def collect(self, job):
        """Deletion in the foreground: first what belongs to it."""
        if "deletionTimestamp" not in job["metadata"]:
            return
        for pod in self.pods_of(job):
            mark_for_deletion(self.store, "pods", pod, pod["spec"].get("terminationGracePeriodSeconds", 30))
        if not self.pods_of(job):
            self.store.remove("mpijobs", job["metadata"]["name"])

    # ------------------------------------------------------------ the operator
    def reconcile(self, job):
        if has(job, "Succeeded") or has(job, "Failed"):
            return
        pods = {pod["metadata"]["name"]: pod for pod in self.pods_of(job)}
        if job["spec"]["runPolicy"].get("suspend"):
            if not has(job, "Suspended"):
                condition(job, "Suspended", reason="MPIJobSuspended")
                self.store.note("mpijobs", "MODIFIED", job)
            for pod in pods.values():
                mark_for_deletion(self.store, "pods", pod, pod["spec"].get("terminationGracePeriodSeconds", 30))
            return
        if not has(job, "Created"):
            condition(job, "Suspended", "False")
            condition(job, "Created", reason="MPIJobCreated")
            self.store.note("mpijobs", "MODIFIED", job)
        name = job["metadata"]["name"]
        workers = [f"{name}-worker-{i}" for i in range(job["spec"]["mpiReplicaSpecs"]["Worker"]["replicas"])]
        launcher = next((pod for pod in pods.values() if pod["metadata"]["labels"][ROLE] == "launcher"), None)
        for i, worker in enumerate(workers):
            if worker not in pods and launcher is None:
                self.make_pod(job, "Worker", worker, i)
        if launcher is None and all(worker in pods and has(pods[worker], "Ready") for worker in workers):
            self.make_pod(job, "Launcher", f"{name}-launcher-x7k2p", 0)
        if launcher is not None and launcher["status"]["phase"] in ("Succeeded", "Failed"):
            self.finish(job, launcher, pods)

    def finish(self, job, launcher, pods):
        good = launcher["status"]["phase"] == "Succeeded"
        condition(job, "Succeeded" if good else "Failed", reason="MPIJobSucceeded" if good else "MPIJobFailed",
                  message=f"MPIJob {NAMESPACE}/{job['metadata']['name']} has {'succeeded' if good else 'failed'}")
        self.store.note("mpijobs", "MODIFIED", job)
        for pod in pods.values():
            if pod["status"]["phase"] in ("Pending", "Running"):
                mark_for_deletion(self.store, "pods", pod, pod["spec"].get("terminationGracePeriodSeconds", 30))

    def make_pod(self, job, role, name, index):
        template = copy.deepcopy(job["spec"]["mpiReplicaSpecs"][role]["template"])
        template["metadata"] = {**template.get("metadata", {}), "name": name}
        template["metadata"].setdefault("labels", {}).update({
            JOB_NAME: job["metadata"]["name"], ROLE: role.lower(), INDEX: str(index),
            "training.kubeflow.org/operator-name": "mpi-operator"})
        self.store.add("pods", {**template, "status": {"phase": "Pending"}})

    # ------------------------------------------------------------ the nodes
    def tend(self, pod):
        if pod["metadata"]["name"] in self.unreachable:
            return None
        if "deletionTimestamp" in pod["metadata"]:
            return self.end(pod)
        if pod["status"]["phase"] == "Pending":
            return self.start(pod)
        process = self.processes.get(pod["metadata"]["uid"])
        if pod["status"]["phase"] == "Running" and process and process.poll() is not None:
            self.stopped(pod, process)

    def start(self, pod):
        main = pod["spec"]["containers"][0]
        problem = self.problem or ("unschedulable" if self.is_full(pod) else "")
        if problem:
            before = copy.deepcopy(pod["status"])
            if problem == "unschedulable":
                condition(pod, "PodScheduled", "False", "Unschedulable", "0/3 nodes are available: 3 Insufficient nvidia.com/gpu.")
            else:
                waiting = {"reason": "ErrImagePull", "message": f"failed to pull {main['image']}: not found"}
                pod["status"]["containerStatuses"] = [
                    {"name": main["name"], "image": main["image"], "state": {"waiting": waiting}}]
            if [c.get("reason") for c in before.get("conditions", [])] != [
                    c.get("reason") for c in pod["status"].get("conditions", [])] or problem == "image" and \
                    "containerStatuses" not in before:
                self.store.note("pods", "MODIFIED", pod)
            return
        pod["status"] = {"phase": "Running"}
        condition(pod, "PodScheduled")
        condition(pod, "Ready")
        if pod["metadata"]["labels"][ROLE] == "launcher":
            self.launched.append(pod["metadata"]["name"])
            self.processes[pod["metadata"]["uid"]] = self.spawn(pod, main)
        self.store.note("pods", "MODIFIED", pod)

    def is_full(self, pod):
        """Whether no node is left for a worker pod."""
        workers = [p for p in self.store.objects["pods"].values() if p["metadata"]["labels"][ROLE] == "worker"]
        running = sum(p["status"]["phase"] == "Running" for p in workers)
        return pod in workers and self.places is not None and running >= self.places

    def log_of(self, pod):
        return self.folder / f"{pod['metadata']['uid']}.log"

    def spawn(self, pod, container):
        env = {**tools.environment(self.env), "HOME": "/tmp"}
        for variable in container.get("env", []):
            reference = variable.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath")
            env[variable["name"]] = pod["metadata"]["uid"] if reference == "metadata.uid" else variable["value"]
        with open(self.log_of(pod), "wb") as log:
            return subprocess.Popen([*container["command"], *container["args"]], env=env, cwd="/", start_new_session=True,
                                    stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def stopped(self, pod, process):
        code = process.returncode if process.returncode >= 0 else 128 - process.returncode
        end = {"exitCode": code, "reason": "Completed" if code == 0 else "Error"}
        if code:  # terminationMessagePolicy: FallbackToLogsOnError
            end["message"] = self.log_of(pod).read_text(errors="replace")[-2048:]
        pod["status"].update(phase="Failed" if code else "Succeeded", containerStatuses=[
            {"name": pod["spec"]["containers"][0]["name"], "state": {"terminated": end}}])
        condition(pod, "Ready", "False")
        self.store.note("pods", "MODIFIED", pod)

    def kill(self, pod):
        process = self.processes.get(pod["metadata"]["uid"])
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        for pid in self.ranks(pod) if pod["metadata"]["labels"][ROLE] == "worker" else []:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def end(self, pod):
        """The preStop hook of a worker (emoe-stop-ranks), SIGTERM to a launcher; SIGKILL when the time is over."""
        uid, grace = pod["metadata"]["uid"], pod["metadata"]["deletionGracePeriodSeconds"]
        worker = pod["metadata"]["labels"][ROLE] == "worker"
        process = self.processes.get(uid)
        left = self.ranks(pod) if worker else [process.pid] if process and process.poll() is None else []
        begin, told = self.deadlines.get(uid, (None, None))
        if begin is None:
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
            begin = time.monotonic()
        self.deadlines[uid] = (begin, grace)
        if left and time.monotonic() - begin >= grace:
            self.kill(pod)
            return
        if left:
            return
        if process is not None and pod["status"]["phase"] == "Running":
            self.stopped(pod, process)
        self.store.remove("pods", pod["metadata"]["name"])
