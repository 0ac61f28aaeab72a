"""A real HDFS: namenode and datanode of Hadoop's own minicluster, in a Java process.

The jars come from Maven Central by `mvn`, once, into the user's cache folder. For the nightly suite only.
"""

import getpass
import os
import shutil
import subprocess
from pathlib import Path
from typing import Final, Self
from urllib.parse import quote

import requests

HADOOP_VERSION: Final = "3.4.2"
_ARTIFACTS: Final = (
    ("org.apache.hadoop", "hadoop-client-minicluster", HADOOP_VERSION),
    ("org.apache.hadoop", "hadoop-client-api", HADOOP_VERSION),
    ("org.apache.hadoop", "hadoop-client-runtime", HADOOP_VERSION),
    # Its REST library needs what Java itself had until 10.
    ("javax.xml.bind", "jaxb-api", "2.3.1"),
)
_MAIN: Final = """
import java.io.File;
import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.hdfs.MiniDFSCluster;

public class MiniHdfs {
  public static void main(String[] arguments) throws Exception {
    Configuration configuration = new Configuration();
    configuration.setInt("dfs.ls.limit", 100);
    MiniDFSCluster cluster = new MiniDFSCluster.Builder(configuration, new File(arguments[0])).numDataNodes(1).build();
    cluster.waitActive();
    System.out.println("READY " + cluster.getNameNode().getHttpAddress().getPort());
    System.in.read();
    cluster.shutdown();
  }
}
"""


class RealHadoop:
    """`with` starts and stops it; `missing` says what is needed and not there."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[str] | None = None
        self.address = ""
        # Who started it is its superuser.
        self.user = getpass.getuser()

    @staticmethod
    def missing() -> str:
        lacking = [name for name in ("java", "javac", "mvn") if shutil.which(name) is None]
        return f"needs {', '.join(lacking)} (Debian: default-jdk-headless, maven)" if lacking else ""

    def __enter__(self) -> Self:
        jars = _jars(self._folder)
        source = self._folder / "MiniHdfs.java"
        source.write_text(_MAIN)
        self._process = subprocess.Popen(
            ["java", "-cp", f"{jars}/*", str(source), str(self._folder / "data")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("READY "):
                self.address = f"127.0.0.1:{int(line.split()[1])}"
                return self
        raise AssertionError(f"Hadoop ended with {self._process.wait(30)} before it was ready")

    def __exit__(self, *_: object) -> None:
        assert self._process is not None and self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(30)
        self._process.stdout.close()

    def write(self, path: str, body: bytes) -> None:
        """Write behind the store's back."""
        self._put(path, body, op="CREATE", overwrite="true")

    def make_directory(self, path: str) -> None:
        self._put(path, b"", op="MKDIRS")

    def _put(self, path: str, body: bytes, **parameters: str) -> None:
        url = f"http://{self.address}/webhdfs/v1{quote(path)}"
        who = {**parameters, "user.name": self.user}
        # A body with the first step would go to the namenode.
        answer = requests.put(url, params=who, allow_redirects=False, timeout=30)
        if answer.status_code == 307:
            answer = requests.put(answer.headers["Location"], data=body, timeout=30)
        answer.raise_for_status()


def _jars(folder: Path) -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "headrace" / f"hadoop-{HADOOP_VERSION}"
    if cache.is_dir():
        return cache
    wanted = "".join(
        f"<dependency><groupId>{group}</groupId><artifactId>{name}</artifactId><version>{version}</version></dependency>"
        for group, name, version in _ARTIFACTS
    )
    (folder / "pom.xml").write_text(
        '<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion><groupId>tests</groupId>'
        f"<artifactId>hdfs</artifactId><version>1</version><dependencies>{wanted}</dependencies></project>"
    )
    made = cache.with_name(f"{cache.name}.{os.getpid()}")
    subprocess.run(
        ["mvn", "-q", "-B", "dependency:copy-dependencies", f"-DoutputDirectory={made}"],
        cwd=folder,
        check=True,
        timeout=600,
        stdout=subprocess.DEVNULL,
    )
    made.rename(cache)
    return cache
