"""An API server of Kubernetes of one's own: MPIJobs and pods of one namespace over HTTPS, with lists, watches, deletion in the
foreground, the verbs that deploy/kubernetes allows and no others, and faults when a test wants them. What plays the operator and
the nodes is in fake_cluster.py.

Shapes of requests and answers are those of the API conventions as kubectl and the Python client take them; no real API server was
there to compare with.
"""
import copy
import datetime
import http.server
import json
import pathlib
import ssl
import threading
import time
import urllib.parse
import uuid

import yaml

import emoe_tools as tools

NAMESPACE = "emoe"
GROUPS = {"mpijobs": ("kubeflow.org", f"/apis/kubeflow.org/v2beta1/namespaces/{NAMESPACE}/mpijobs"),
          "pods": ("", f"/api/v1/namespaces/{NAMESPACE}/pods")}
KINDS = {"mpijobs": ("MPIJob", "kubeflow.org/v2beta1"), "pods": ("Pod", "v1")}
ACCESS = tools.ROOT / "deploy" / "kubernetes" / "base" / "access.yaml"


def now():
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def allowed_verbs():
    """{(resource, verb)} of the Role that we ship."""
    role, = [d for d in yaml.safe_load_all(ACCESS.read_text(encoding="utf-8")) if d["kind"] == "Role"]
    return {(resource, verb) for rule in role["rules"] for resource in rule["resources"] for verb in rule["verbs"]}


class Authority:
    """A CA of one's own; `certificate` is its file."""

    CURVE = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.certificate, self.key = self.folder / "ca.crt", self.folder / "ca.key"
        self.openssl("req", "-x509", *self.CURVE, "-keyout", self.key, "-out", self.certificate, "-subj", "/CN=test CA",
                     "-days", "2")

    def openssl(self, *arguments):
        tools.run(["openssl", *arguments]).expect()

    def issue(self, name, subject, extension):
        """(certificate, its key), as files."""
        certificate, key, request, more = (self.folder / f"{name}.{end}" for end in ("crt", "key", "csr", "ext"))
        more.write_text(extension + "\n")
        self.openssl("req", *self.CURVE, "-keyout", key, "-out", request, "-subj", subject)
        self.openssl("x509", "-req", "-in", request, "-CA", self.certificate, "-CAkey", self.key, "-CAcreateserial",
                     "-out", certificate, "-days", "2", "-extfile", more)
        return certificate, key

    def client(self, name):
        """As the cluster's CA issues it to a user."""
        return self.issue(name, f"/O=emoe/CN={name}", "extendedKeyUsage=clientAuth")


class Fault:
    """What happens to the next `times` requests that match, instead of or after what they ask."""

    def __init__(self, method, part, times=1, status=0, reason="", message="", headers=None, silent="", watch=""):
        self.method, self.part, self.times = method, part, times
        self.status, self.reason, self.message, self.headers = status, reason, message, headers or {}
        self.silent = silent  # "before" or "after" the request is carried out: the connection is closed without an answer
        self.watch = watch    # "cut": half a line, then the end; "expired": the event ERROR with 410


class Refused(Exception):
    def __init__(self, code, reason, message, **details):
        super().__init__(message)
        self.code, self.reason, self.message, self.details = code, reason, message, details


class Store:
    """The objects, and every change of them as an event. All under `changed`, which is told of each."""

    def __init__(self):
        self.changed = threading.Condition()
        self.objects = {"mpijobs": {}, "pods": {}}
        self.version, self.oldest, self.events = 100, 100, []

    def note(self, kind, type_, found):
        self.version += 1
        found["metadata"]["resourceVersion"] = str(self.version)
        self.events.append((self.version, kind, type_, copy.deepcopy(found)))
        self.changed.notify_all()

    def add(self, kind, new):
        name = new["metadata"]["name"]
        if name in self.objects[kind]:
            raise Refused(409, "AlreadyExists", f'{kind} "{name}" already exists', name=name)
        found = copy.deepcopy(new)
        found["metadata"].update(namespace=NAMESPACE, uid=str(uuid.uuid4()), creationTimestamp=now(), generation=1)
        found.setdefault("status", {})
        self.objects[kind][name] = found
        self.note(kind, "ADDED", found)
        return found

    def remove(self, kind, name):
        found = self.objects[kind].pop(name)
        self.note(kind, "DELETED", found)

    def forget_history(self):
        """Watches from now on must be from a newer list."""
        with self.changed:
            self.version += 1
            self.oldest = self.version
            self.events.clear()
            self.changed.notify_all()


def labels_match(found, selector):
    wanted = dict(part.split("=", 1) for part in selector.split(",") if part)
    labels = found["metadata"].get("labels", {})
    return all(labels.get(key) == value for key, value in wanted.items())


def check_mpijob(job):
    """The operator's own checks, and those of the "restricted" Pod Security Standard."""
    replicas, wrong = job["spec"]["mpiReplicaSpecs"], []
    if set(replicas) != {"Launcher", "Worker"} or replicas["Launcher"]["replicas"] != 1 or replicas["Worker"]["replicas"] < 1:
        wrong.append("mpiReplicaSpecs")
    if job["spec"]["runPolicy"]["cleanPodPolicy"] not in ("None", "Running", "All"):
        wrong.append("cleanPodPolicy")
    if len(job["metadata"]["name"]) + len("-worker-9999") > 63:
        wrong.append("metadata.name")
    for role, replica in replicas.items():
        if replica["restartPolicy"] not in ("Never", "OnFailure"):
            wrong.append(f"{role}.restartPolicy")
        pod = replica["template"]["spec"]
        context = pod.get("securityContext", {})
        if not context.get("runAsNonRoot") or context.get("seccompProfile", {}).get("type") != "RuntimeDefault":
            wrong.append(f"{role}: not restricted")
        volumes = {volume["name"] for volume in pod.get("volumes", [])}
        for container in pod["containers"]:
            inner = container.get("securityContext", {})
            if inner.get("allowPrivilegeEscalation") is not False or inner.get("capabilities") != {"drop": ["ALL"]}:
                wrong.append(f"{role}.{container['name']}: not restricted")
            wrong += [f"{role}: no volume {mount['name']}" for mount in container.get("volumeMounts", [])
                      if mount["name"] not in volumes]
            if not container.get("image"):
                wrong.append(f"{role}.{container['name']}.image")
    if wrong:
        raise Refused(422, "Invalid", f'MPIJob "{job["metadata"]["name"]}" is invalid: {", ".join(wrong)}')


class ApiServer:
    """`url`, `ca` and the token in `token_file` are for clients. With `client_ca` (the file of a CA) TLS is mutual: who has no
    certificate of that CA is turned away, and who has one needs no token."""

    def __init__(self, folder, names="IP:127.0.0.1,DNS:localhost", client_ca=None):
        folder = pathlib.Path(folder)
        self.store, self.faults, self.used, self.requests = Store(), [], set(), []
        self.tokens, self.allowed, self.has_crd = {"first-token"}, allowed_verbs(), True
        self.token_file = folder / "token"
        folder.mkdir(parents=True, exist_ok=True)
        self.token_file.write_text("first-token\n")
        authority = Authority(folder / "certificates")
        self.ca = authority.certificate
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*authority.issue("server", "/CN=api", f"subjectAltName={names}"))
        self.users = set()  # names in the certificates of those who asked
        if client_ca:
            context.load_verify_locations(client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
        server = self

        class Handler(RequestHandler):
            api = server

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.http.socket = context.wrap_socket(self.http.socket, server_side=True, do_handshake_on_connect=False)
        self.url = f"https://127.0.0.1:{self.http.server_address[1]}"
        self.closing = False
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def close(self):
        self.closing = True
        with self.store.changed:
            self.store.changed.notify_all()
        self.http.shutdown()
        self.http.server_close()

    def rotate_token(self):
        self.token_file.write_text("second-token\n")
        self.tokens = {"second-token"}

    def fault(self, *arguments, **options):
        self.faults.append(Fault(*arguments, **options))
        return self.faults[-1]

    def take_fault(self, method, path, watch):
        for fault in self.faults:
            if fault.times > 0 and fault.method == method and fault.part in path and bool(fault.watch) == watch:
                fault.times -= 1
                return fault
        return None

    def names(self, kind="mpijobs"):
        with self.store.changed:
            return sorted(self.store.objects[kind])

    def created(self):
        """Names of the MPIJobs that were ever made."""
        with self.store.changed:
            return [found["metadata"]["name"] for _, kind, type_, found in self.store.events
                    if kind == "mpijobs" and type_ == "ADDED"]


class RequestHandler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    api = None

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.answer("GET")

    def do_POST(self):
        self.answer("POST")

    def do_DELETE(self):
        self.answer("DELETE")

    def answer(self, method):
        url = urllib.parse.urlsplit(self.path)
        query = {key: values[-1] for key, values in urllib.parse.parse_qs(url.query).items()}
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        watch = query.get("watch") == "true"
        fault = self.api.take_fault(method, self.path, watch)
        self.api.requests.append((method, self.path))
        try:
            if fault and fault.silent == "before":
                return self.hang_up()
            if fault and fault.status:
                raise Refused(fault.status, fault.reason, fault.message)
            self.authenticate()
            kind, name = self.find(url.path)
            self.authorize(kind, self.verb(method, name, watch))
            if watch:
                return self.watch(kind, query, fault)
            result, code = self.carry_out(method, kind, name, query, json.loads(body or b"{}"))
            if fault and fault.silent == "after":
                return self.hang_up()
            self.reply(code, result)
        except Refused as refused:
            self.reply(refused.code, {
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": refused.message,
                "reason": refused.reason, "details": refused.details, "code": refused.code}, fault.headers if fault else {})
        except (BrokenPipeError, ConnectionResetError, ssl.SSLError):
            self.close_connection = True

    def hang_up(self):
        self.close_connection = True

    def reply(self, code, result, headers=None):
        data = json.dumps(result).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(data)

    def authenticate(self):
        certificate = self.connection.getpeercert()
        if certificate:
            self.api.users |= {value for part in certificate["subject"] for key, value in part if key == "commonName"}
            return
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token not in self.api.tokens:
            raise Refused(401, "Unauthorized", "Unauthorized")

    def find(self, path):
        for kind, (_, base) in GROUPS.items():
            if (path == base or path.startswith(base + "/")) and (kind != "mpijobs" or self.api.has_crd):
                return kind, path[len(base):].lstrip("/")
        raise Refused(404, "NotFound", "the server could not find the requested resource")

    def verb(self, method, name, watch):
        if method == "GET":
            return "watch" if watch else "get" if name else "list"
        return {"POST": "create", "DELETE": "delete"}[method]

    def authorize(self, kind, verb):
        self.api.used.add((kind, verb))
        if (kind, verb) not in self.api.allowed:
            group = GROUPS[kind][0]
            raise Refused(403, "Forbidden", f'{kind} is forbidden: User "system:serviceaccount:emoe:emoe-coordinator" cannot '
                          f'{verb} resource "{kind}" in API group "{group}" in the namespace "{NAMESPACE}"')

    def carry_out(self, method, kind, name, query, body):
        store = self.api.store
        with store.changed:
            if method == "POST":
                check_mpijob(body)
                return store.add(kind, body), 201
            if method == "GET" and not name:
                items = [found for found in store.objects[kind].values() if labels_match(found, query.get("labelSelector", ""))]
                return {"kind": KINDS[kind][0] + "List", "apiVersion": KINDS[kind][1],
                        "metadata": {"resourceVersion": str(store.version)}, "items": copy.deepcopy(items)}, 200
            found = store.objects[kind].get(name)
            if found is None:
                raise Refused(404, "NotFound", f'{kind}.{GROUPS[kind][0]} "{name}" not found', name=name)
            if method == "DELETE":
                self.delete(kind, found, {**query, **body})
            return copy.deepcopy(found), 200

    def delete(self, kind, found, options):
        if options.get("preconditions", {}).get("uid", found["metadata"]["uid"]) != found["metadata"]["uid"]:
            raise Refused(409, "Conflict", "the UID in the precondition does not match")
        if kind == "mpijobs":
            assert options.get("propagationPolicy") == "Foreground", options
            found["metadata"].setdefault("finalizers", ["foregroundDeletion"])
        grace = found.get("spec", {}).get("terminationGracePeriodSeconds", 30) if kind == "pods" else 0
        mark_for_deletion(self.api.store, kind, found, int(options.get("gracePeriodSeconds", grace)))

    def watch(self, kind, query, fault):
        store, selector = self.api.store, query.get("labelSelector", "")
        seen = int(query["resourceVersion"])
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        if seen < store.oldest or (fault and fault.watch == "expired"):
            return self.end_of_watch({"type": "ERROR", "object": {
                "kind": "Status", "status": "Failure", "code": 410, "reason": "Expired",
                "message": f"too old resource version: {seen}"}})
        until = time.monotonic() + int(query.get("timeoutSeconds", 60))
        while time.monotonic() < until and not self.api.closing:
            with store.changed:
                store.changed.wait_for(lambda: store.version > seen or self.api.closing, 0.5)
                new = [event for event in store.events if event[0] > seen and event[1] == kind]
                seen = store.version
            for _, _, type_, found in new:
                if not labels_match(found, selector):
                    continue
                line = json.dumps({"type": type_, "object": found}).encode() + b"\n"
                if fault and fault.watch == "cut":
                    self.chunk(line[:len(line) // 2])
                    return self.hang_up()
                self.chunk(line)
        self.end_of_watch()

    def end_of_watch(self, event=None):
        if event:
            self.chunk(json.dumps(event).encode() + b"\n")
        self.wfile.write(b"0\r\n\r\n")

    def chunk(self, data):
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()


def mark_for_deletion(store, kind, found, grace):
    """Under store.changed. A second deletion may only shorten the time."""
    metadata = found["metadata"]
    if "deletionTimestamp" in metadata and metadata["deletionGracePeriodSeconds"] <= grace:
        return
    metadata.update(deletionTimestamp=now(), deletionGracePeriodSeconds=grace)
    store.note(kind, "MODIFIED", found)
