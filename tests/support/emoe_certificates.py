"""Certificates for tests, made with openssl when they run: nothing that could expire is kept."""
import pathlib
import subprocess

EC_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
HERE = "IP:127.0.0.1,DNS:localhost"


def openssl(*arguments):
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, stdin=subprocess.DEVNULL)


class Pair:
    """A certificate and its key, in files."""

    def __init__(self, folder, name):
        self.certificate, self.key = pathlib.Path(folder) / f"{name}.pem", pathlib.Path(folder) / f"{name}.key"

    @property
    def certificate_pem(self):
        return self.certificate.read_bytes()

    @property
    def key_pem(self):
        return self.key.read_bytes()


def self_signed(folder, name, names=HERE):
    pair = Pair(folder, name)
    openssl("req", "-x509", *EC_KEY, "-days", 30, "-subj", f"/CN={name}", "-addext", f"subjectAltName={names}",
            "-keyout", pair.key, "-out", pair.certificate)
    return pair


class Authority:
    def __init__(self, folder, name="ca"):
        self.folder, self.name = pathlib.Path(folder), name
        self.folder.mkdir(parents=True, exist_ok=True)
        self.pair = Pair(folder, name)
        openssl("req", "-x509", *EC_KEY, "-days", 30, "-subj", f"/CN={name}", "-keyout", self.pair.key, "-out",
                self.pair.certificate)
        (self.folder / f"{name}.index").touch()
        self.config = self.folder / f"{name}.cnf"
        self.config.write_text(f"""[ca]
default_ca = this
[this]
database = {self.folder}/{name}.index
rand_serial = yes
unique_subject = no
default_md = sha256
policy = any
copy_extensions = copy
new_certs_dir = {self.folder}
[any]
commonName = supplied
""", encoding="utf-8")

    @property
    def file(self):
        return self.pair.certificate

    def issue(self, name, names=HERE, begin="20200101000000Z", end="20991231235959Z"):
        """A certificate for `names`, in force from `begin` to `end`."""
        pair, request = Pair(self.folder, name), self.folder / f"{name}.csr"
        openssl("req", "-new", *EC_KEY, "-subj", f"/CN={name}", "-addext", f"subjectAltName={names}", "-keyout",
                pair.key, "-out", request)
        openssl("ca", "-batch", "-config", self.config, "-cert", self.pair.certificate, "-keyfile", self.pair.key,
                "-startdate", begin, "-enddate", end, "-in", request, "-out", pair.certificate, "-notext")
        return pair

    def issue_expired(self, name, names=HERE):
        return self.issue(name, names, begin="20200101000000Z", end="20200102000000Z")
