"""A coordinator with TLS and tokens, and clients of each role."""
import hashlib
import os
import secrets

import grpc
import yaml

import emoe_tools as tools
from emoe_api import Api, Coordinator
from emoe_certificates import Authority


class Tokens:
    """A tokens file, written anew as a whole with each change, as people's tools do."""

    def __init__(self, path):
        self.path, self.entries, self.secrets = path, [], {}

    def add(self, name, role, project="", allowed_roots=()):
        secret = secrets.token_urlsafe(32)
        self.secrets[name] = secret
        self.entries = [entry for entry in self.entries if entry["name"] != name]
        entry = {"name": name, "sha256": hashlib.sha256(secret.encode()).hexdigest(), "role": role}
        if project:
            entry["project"] = project
        if allowed_roots:
            entry["allowed_roots"] = [str(root) for root in allowed_roots]
        self.entries.append(entry)
        return secret

    def remove(self, name):
        self.entries = [entry for entry in self.entries if entry["name"] != name]

    def write(self):
        fresh = self.path.with_suffix(".new")
        fresh.write_text(yaml.safe_dump({"tokens": self.entries}), encoding="utf-8")
        os.replace(fresh, self.path)


# name: (role, project)
PEOPLE = {"ann": ("user", "research"), "vic": ("viewer", "research"), "bob": ("user", "product"),
          "eve": ("viewer", "product"), "root": ("admin", "")}


class SecureCoordinator(Coordinator):
    """By TLS, with a certificate of `ca`; the tokens are those of PEOPLE."""

    def __init__(self, folder, config=None, server=None, people=None, **settings):
        self.ca = Authority(folder / "ca")
        self.server = server or self.ca.issue("server")
        self.tokens = Tokens(folder / "tokens.yaml")
        for name, (role, project) in (people or PEOPLE).items():
            self.tokens.add(name, role, project)
        self.tokens.write()
        document = {"launcher": {"mpirun_args": tools.MPI_ARGUMENTS},
                    "tls": {"certificate": str(self.server.certificate), "key": str(self.server.key),
                            "ranks_ca": str(self.ca.file)},
                    "auth": {"tokens": str(self.tokens.path)}}
        for key, value in (config or {}).items():
            document[key] = {**document.get(key, {}), **value} if isinstance(value, dict) else value
        tools.write_yaml(folder / "coordinator.yaml", document)
        super().__init__(folder, **settings)

    def credentials(self, pair=None, ca=None):
        ca_pem = (ca or self.ca.file).read_bytes()
        return grpc.ssl_channel_credentials(ca_pem, pair.key_pem if pair else None,
                                            pair.certificate_pem if pair else None)

    def connect(self):
        return self.client("root")

    def client(self, name="", token="", **options):
        return Api(self.grpc_address, self.credentials(), token or (self.tokens.secrets[name] if name else ""),
                   **options)
