"""Open WebUI's own backend as a client: it lists the server's models, then asks one, whole and streamed, as its page does.

usage: open_webui_chat.py ADDRESS FOLDER (for its database)
"""

import json
import os
import socket
import subprocess
import sys
import time

import requests

address, folder = sys.argv[1:]
with socket.create_server(("127.0.0.1", 0)) as free:
    port = free.getsockname()[1]
settings = {
    "OPENAI_API_BASE_URL": address,
    "OPENAI_API_KEY": "none",
    "ENABLE_OLLAMA_API": "False",
    "WEBUI_AUTH": "False",
    "DATA_DIR": folder,
    "WEBUI_SECRET_KEY": "test",
    "OFFLINE_MODE": "True",
    "RAG_EMBEDDING_ENGINE": "openai",  # else it loads a model of its own
    "PATH": f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}",
}
program = os.path.join(os.path.dirname(sys.executable), "open-webui")
backend = subprocess.Popen(
    [program, "serve", "--host", "127.0.0.1", "--port", str(port)], env={**os.environ, **settings}, stdout=sys.stderr, stderr=sys.stderr
)
own = f"http://127.0.0.1:{port}"


def wait() -> None:
    """Until it answers."""
    for _ in range(500):
        if backend.poll() is not None:
            raise SystemExit("the backend has ended")
        try:
            requests.get(f"{own}/health", timeout=2).raise_for_status()
            return
        except requests.RequestException:
            time.sleep(0.3)
    raise SystemExit("the backend did not start")


try:
    wait()
    token = requests.post(f"{own}/api/v1/auths/signin", json={"email": "", "password": ""}, timeout=30).json()["token"]
    headers = {"Authorization": f"Bearer {token}"}
    models = [model["id"] for model in requests.get(f"{own}/api/models", headers=headers, timeout=30).json()["data"]]
    body = {"model": models[0], "messages": [{"role": "user", "content": "How warm is it?"}]}
    whole = requests.post(f"{own}/api/chat/completions", headers=headers, json=body, timeout=60).json()
    streamed = ""
    with requests.post(f"{own}/api/chat/completions", headers=headers, json={**body, "stream": True}, stream=True, timeout=60) as answer:
        for line in answer.iter_lines():
            if line.startswith(b"data: {"):
                for choice in json.loads(line[6:]).get("choices", ()):
                    streamed += choice["delta"].get("content") or ""
    sys.stdout.write(json.dumps({"models": models, "whole": whole["choices"][0]["message"]["content"], "streamed": streamed}) + "\n")
finally:
    backend.terminate()
    backend.wait(20)
