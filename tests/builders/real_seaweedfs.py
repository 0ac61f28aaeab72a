"""A real S3 server: SeaweedFS's master, volume server, filer and S3 gateway, in one process on loopback ports.

Its folder holds all it writes, but for the sockets it insists on having in /tmp; they go with it. For the nightly
suite only: it is built once into the cache folder by `python tools/bootstrap.py --seaweedfs`.
"""

import json
import os
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Final, Self

from headrace.cluster import binaries, ports

START_SECONDS: Final = 90.0
STOP_SECONDS: Final = 20.0
ACCESS_KEY: Final = "headrace-tests"
SECRET_KEY: Final = "canary-seaweed-1"
REGION: Final = "us-east-1"
_PARTS: Final = ("master", "volume", "filer", "s3")


class RealSeaweedFS:
    """`with` starts and stops it; `missing` says why it cannot be started."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._ports: dict[str, int] = {}
        self.client: Any = None
        """boto3's, with which a test can look behind a store's back."""
        self.bucket = ""
        """For all tests, each below a prefix of its own: every bucket would take volumes."""

    @staticmethod
    def missing() -> str:
        if binaries.locate(names=(binaries.SEAWEEDFS.name,)).found:
            return ""
        return "SeaweedFS is not built on this machine; `python tools/bootstrap.py --seaweedfs` builds it"

    @property
    def port(self) -> int:
        return self._ports["s3"]

    @property
    def endpoint(self) -> str:
        return f"http://{ports.LOOPBACK}:{self.port}"

    def options(self) -> dict[str, str]:
        """Of a mount of this server."""
        keys = {"accessKeyId": ACCESS_KEY, "accessKeySecret": SECRET_KEY}
        return {"endpoint": self.endpoint, "region": REGION, **keys}

    def __enter__(self) -> Self:
        for name in [part + kind for part in _PARTS for kind in ("", ".grpc")]:
            self._ports[name] = ports.pick_free(self._ports.values())
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def start(self) -> None:
        """Start it, or after `kill` start it again with what it has, and wait until it takes bytes."""
        self._start()
        self._wait_until_it_takes_bytes()

    def kill(self) -> None:
        """End it at once; an orderly end takes it up to 20 s."""
        if self.client is not None:
            self.client.close()
            self.client = None
        if self._process is not None:
            self._process.kill()
            self._process.wait(STOP_SECONDS)
            self._process = None
        for part in _PARTS:
            Path(f"/tmp/seaweedfs-{part}-grpc-{self._ports.get(f'{part}.grpc')}.sock").unlink(missing_ok=True)

    def _start(self) -> None:
        data = self._folder / "data"
        data.mkdir(parents=True, exist_ok=True)
        identity = {
            "name": "tests",
            "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
        (self._folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
        # Seven volumes at a time are for servers that are not alone.
        (self._folder / "master.toml").write_text("[master.volume_growth]\ncopy_1 = 1\n")
        options: dict[str, object] = {
            "ip": ports.LOOPBACK,
            "ip.bind": ports.LOOPBACK,
            "dir": data,
            # One master alone elects nobody; and by default it reports to its makers.
            "master.peers": "none",
            "master.telemetry": "false",
            "master.volumeSizeLimitMB": 128,
            "volume.max": 200,
            "filer.localSocket": self._folder / "filer.sock",
            "s3": "true",
            "s3.config": self._folder / "s3.json",
            "s3.localSocket": self._folder / "s3.sock",
            # Else it stores `a\\b` as `a/b`.
            "s3.allowBackslashInKey": "true",
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
        }
        for name, port in self._ports.items():
            part, _, kind = name.partition(".")
            options[f"{part}.port{'.' + kind if kind else ''}"] = port
        weed = binaries.require((binaries.SEAWEEDFS.name,))[binaries.SEAWEEDFS.name]
        # Its settings come from configuration files in $HOME and from WEED_… and AWS_… variables too.
        environment = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(self._folder)}
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *("setpriv", "--pdeathsig", "KILL", "--", str(weed), "-logtostderr=true", "server"),
                    *(f"-{name}={value}" for name, value in options.items()),
                ],
                cwd=self._folder,
                env={**environment, "TMPDIR": str(self._folder)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def _wait_until_it_takes_bytes(self) -> None:
        """The gateway answers before the volume server is known to the master."""
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            self._check(deadline)
            time.sleep(0.1)
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, ClientError

        self.client = boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            region_name=REGION,
            config=Config(connect_timeout=5, read_timeout=30, retries={"total_max_attempts": 1}),
        )
        while True:
            try:
                # A new one each time: whether the last was made is not known when its answer did not come.
                probe = self.new_bucket()
                self.client.put_object(Bucket=probe, Key="probe", Body=b"x")
                self.client.delete_object(Bucket=probe, Key="probe")
                self.bucket = self.bucket or probe
                return
            except (BotoCoreError, ClientError):
                self._check(deadline)
                time.sleep(0.2)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.endpoint}/healthz", timeout=5):
                return True
        except (urllib.error.URLError, OSError):
            return False

    def _check(self, deadline: float) -> None:
        assert self._process is not None
        log = (self._folder / "log").read_text(errors="replace")[-3000:]
        assert self._process.poll() is None, f"SeaweedFS ended with {self._process.returncode}:\n{log}"
        assert time.monotonic() < deadline, f"SeaweedFS was not ready within {START_SECONDS} s:\n{log}"

    def __exit__(self, *_: object) -> None:
        self.kill()
        # Volumes are as large as what was written to them.
        shutil.rmtree(self._folder / "data", ignore_errors=True)

    def new_bucket(self) -> str:
        name = f"bucket-{os.urandom(6).hex()}"
        self.client.create_bucket(Bucket=name)
        return name

    def write(self, key: str, body: bytes) -> None:
        """Write behind the store's back."""
        self.client.put_object(Bucket=self.bucket, Key=key, Body=body)

    def read(self, key: str) -> bytes:
        """Read behind the store's back."""
        body: bytes = self.client.get_object(Bucket=self.bucket, Key=key)["Body"].read()
        return body

    def uploads(self, prefix: str) -> list[str]:
        """Keys of uploads in parts that nobody ended."""
        listed = self.client.list_multipart_uploads(Bucket=self.bucket, Prefix=prefix)
        return [upload["Key"] for upload in listed.get("Uploads", [])]
