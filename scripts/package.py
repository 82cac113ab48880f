"""Packs one executable for scripts/release.sh: a tar.gz, a wheel, checksums, licences and a list of dependencies (CycloneDX).

Only the standard library is used, and the same input gives the same bytes.
"""

import argparse
import base64
import gzip
import hashlib
import io
import json
import os
import struct
import subprocess
import tarfile
import tempfile
import tomllib
import zipfile
from datetime import datetime, timezone
from pathlib import Path

TOOLS = ["gen", "fire", "stats", "agg", "diff", "sim", "selftest"]
PT_INTERP = 3
SUMMARY = "Load tests for LLM inference servers"
# The C library of a static executable; it comes with Rust's standard library, without its notice.
MUSL = """Copyright © 2005-2020 Rich Felker, et al.

Permission is hereby granted, free of charge, to any person obtaining
a copy of this software and associated documentation files (the
"Software"), to deal in the Software without restriction, including
without limitation the rights to use, copy, modify, merge, publish,
distribute, sublicense, and/or sell copies of the Software, and to
permit persons to whom the Software is furnished to do so, subject to
the following conditions:

The above copyright notice and this permission notice shall be
included in all copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND,
EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF
MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT.
IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY
CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT,
TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE
SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE."""
LICENCES = ["LICENSE", "LICENSES-OF-DEPENDENCIES.txt", "LICENSES-OF-RUST.html"]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for flag in ["--binary", "--root", "--out"]:
        parser.add_argument(flag, type=Path, required=True)
    parser.add_argument("--target", required=True)
    parser.add_argument("--runner", default="", help="a program that runs an executable for another processor")
    args = parser.parse_args()
    package = tomllib.loads((args.root / "Cargo.toml").read_text())["package"]
    machine = args.target.split("-")[0]
    name = f"vb-{package['version']}-{machine}-linux"
    epoch = int(os.environ.get("SOURCE_DATE_EPOCH", "0"))
    crates, graph = read_dependencies(args.root, args.target)
    files = {
        "bin/vb": args.binary.read_bytes(),
        "LICENSE": (args.root / "LICENSE").read_bytes(),
        "README.md": (args.root / "README.md").read_bytes(),
        "CHANGELOG.md": (args.root / "CHANGELOG.md").read_bytes(),
        "LICENSES-OF-DEPENDENCIES.txt": licences(crates).encode(),
        "LICENSES-OF-RUST.html": licences_of_rust(),
        "vb.cdx.json": json.dumps(bill_of_materials(package, crates, graph, epoch), indent=1).encode(),
        **pages([*args.runner.split(), args.binary]),
    }
    links = {f"bin/vb-{tool}": "vb" for tool in TOOLS}
    links |= {f"share/bash-completion/completions/vb-{tool}": "vb" for tool in TOOLS}
    args.out.mkdir(parents=True, exist_ok=True)
    archive = args.out / f"{name}.tar.gz"
    archive.write_bytes(make_tar(name, files, links, epoch))
    wheel = write_wheel(args.out, package, machine, files, epoch)
    bill = args.out / f"{name}.cdx.json"
    bill.write_bytes(files["vb.cdx.json"])
    written = [archive, wheel, bill]
    # Those for other processors too.
    released = sorted(args.out.glob(f"vb-{package['version']}-*"))
    sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in released]
    (args.out / "SHA256SUMS").write_text("".join(sums))
    print(f"vb: {len(files['bin/vb']) / 1e6:.1f} MB, {len(crates)} dependencies")
    for path in written:
        print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")


def read_dependencies(root, target):
    """The crates that are linked into the executable, and the edges between them."""
    command = ["cargo", "metadata", "--format-version", "1", "--locked", "--filter-platform", target]
    done = subprocess.run([*command, "--manifest-path", root / "Cargo.toml"], stdout=subprocess.PIPE, check=True)
    metadata = json.loads(done.stdout)
    packages = {package["id"]: package for package in metadata["packages"]}
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    lock = tomllib.loads((root / "Cargo.lock").read_text())["package"]
    sums = {(package["name"], package["version"]): package.get("checksum") for package in lock}

    def runs_in_compiler(one):
        return any("proc-macro" in target["kind"] for target in packages[one]["targets"])

    def linked(node):
        # Of the kinds null, dev and build, only null is in the executable.
        found = [dep["pkg"] for dep in node["deps"] if any(kind["kind"] is None for kind in dep["dep_kinds"])]
        return [one for one in found if not runs_in_compiler(one)]

    start = metadata["resolve"]["root"]
    graph, open_ids = {}, [start]
    while open_ids:
        one = open_ids.pop()
        if one not in graph:
            graph[one] = linked(nodes[one])
            open_ids.extend(graph[one])
    crates = [packages[one] for one in graph if one != start]
    for crate in crates:
        crate["checksum"] = sums.get((crate["name"], crate["version"]))
    crates.sort(key=lambda crate: (crate["name"], crate["version"]))
    purls = {one: purl(packages[one]) for one in graph}
    return crates, {purls[one]: sorted({purls[dep] for dep in deps}) for one, deps in graph.items()}


def purl(crate):
    return f"pkg:cargo/{crate['name']}@{crate['version']}"


def licences(crates):
    """The name, the licence and the licence files of every crate; equal texts once."""
    names, texts = {}, {}
    for crate in crates:
        folder = Path(crate["manifest_path"]).parent
        found = [path for path in sorted(folder.iterdir()) if path.is_file() and is_licence(path.name)]
        for path in found:
            text = path.read_text(errors="replace").strip()
            key = " ".join(text.split())
            texts.setdefault(key, text)
            names.setdefault(key, []).append(f"{crate['name']} {crate['version']}")
    parts = ["vb contains these libraries, and Rust's standard library (LICENSES-OF-RUST.html).\n", "musl: MIT"]
    parts += [f"{crate['name']} {crate['version']}: {licence_expression(crate) or 'see below'}" for crate in crates]
    rule = "=" * 78
    texts[""], names[""] = MUSL, ["musl"]
    for key, text in texts.items():
        parts.append(f"\n{rule}\n{', '.join(dict.fromkeys(names[key]))}\n{rule}\n\n{text}")
    return "\n".join(parts) + "\n"


def licence_expression(crate):
    # Old crates separate alternatives by a slash.
    return " ".join((crate["license"] or "").replace("/", " OR ").split())


def licences_of_rust():
    """The notices of Rust's standard library and of what it contains, as the compiler's package has them."""
    root = subprocess.run(["rustc", "--print", "sysroot"], stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    path = Path(root) / "share/doc/rust/COPYRIGHT-library.html"
    if not path.is_file():
        raise SystemExit(f"release: there is no {path}: use Rust from https://rustup.rs, which has these notices")
    return path.read_bytes()


def is_licence(name):
    return name.lower().startswith(("license", "licence", "copying", "notice", "unlicense", "copyright"))


def bill_of_materials(package, crates, graph, epoch):
    """The dependencies in the format CycloneDX 1.5."""
    own = {"type": "application", "name": "vb", "version": package["version"]}
    own |= {"bom-ref": purl(package), "purl": purl(package), "licenses": [{"expression": package["license"]}]}
    components = []
    for crate in crates:
        part = {"type": "library", "name": crate["name"], "version": crate["version"]}
        part |= {"bom-ref": purl(crate), "purl": purl(crate)}
        if crate["checksum"]:
            part["hashes"] = [{"alg": "SHA-256", "content": crate["checksum"]}]
        if crate["license"]:
            part["licenses"] = [{"expression": licence_expression(crate)}]
        components.append(part)
    version = subprocess.run(["rustc", "--version"], stdout=subprocess.PIPE, text=True, check=True).stdout.split()[1]
    std = {"type": "library", "name": "rust-std", "version": version, "bom-ref": "rust-std"}
    std["licenses"] = [{"expression": "MIT OR Apache-2.0"}]
    musl = {"type": "library", "name": "musl", "bom-ref": "musl", "licenses": [{"license": {"id": "MIT"}}]}
    components += [std, musl]
    graph = {**graph, "rust-std": ["musl"], purl(package): [*graph[purl(package)], "rust-std"]}
    time = datetime.fromtimestamp(epoch, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"timestamp": time, "component": own},
        "components": components,
        "dependencies": [{"ref": one, "dependsOn": deps} for one, deps in sorted(graph.items())],
    }


def pages(command):
    """The man pages and completions, as the executable writes them."""
    files = {}
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([*command, "man", folder], check=True)
        for page in sorted(Path(folder).iterdir()):
            files[f"share/man/man1/{page.name}"] = page.read_bytes()
    places = {
        "bash": "share/bash-completion/completions/vb",
        "zsh": "share/zsh/site-functions/_vb",
        "fish": "share/fish/vendor_completions.d/vb.fish",
    }
    for shell, place in places.items():
        files[place] = subprocess.run([*command, "completions", shell], check=True, capture_output=True).stdout
    return files


def is_static(binary):
    """Whether an ELF file needs no loader: none of its program headers names one."""
    (start,) = struct.unpack_from("<Q", binary, 32)
    size, count = struct.unpack_from("<HH", binary, 54)
    return all(struct.unpack_from("<I", binary, start + i * size)[0] != PT_INTERP for i in range(count))


def make_tar(name, files, links, epoch):
    """A tar.gz of the files below the folder `name`."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path in sorted([*files, *links]):
            info = tarfile.TarInfo(f"{name}/{path}")
            info.mtime = epoch
            info.mode = 0o755 if path.startswith("bin/") else 0o644
            if path in links:
                info.type, info.linkname = tarfile.SYMTYPE, links[path]
                tar.addfile(info)
            else:
                info.size = len(files[path])
                tar.addfile(info, io.BytesIO(files[path]))
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=9, mtime=0) as stream:
        stream.write(raw.getvalue())
    return packed.getvalue()


def write_wheel(out, package, machine, files, epoch):
    """A wheel that installs the executable, and a small script for each tool, since a wheel has no links."""
    version = package["version"]
    # A static file runs with any libc, and another one for certain only where it was built.
    platforms = [f"manylinux_2_17_{machine}", f"musllinux_1_1_{machine}"] if is_static(files["bin/vb"]) else [f"linux_{machine}"]
    info, scripts = f"vb-{version}.dist-info", f"vb-{version}.data/scripts"
    content = {f"{scripts}/vb": files["bin/vb"]}
    for tool in TOOLS:
        content[f"{scripts}/vb-{tool}"] = f'#!/bin/sh\nexec "$(dirname "$(readlink -f "$0")")/vb" {tool} "$@"\n'.encode()
    head = f"Metadata-Version: 2.4\nName: vb\nVersion: {version}\nSummary: {SUMMARY}\n"
    head += f"License-Expression: {package['license']}\n" + "".join(f"License-File: {name}\n" for name in LICENCES)
    head += "Requires-Python: >=3.8\n"
    head += "Description-Content-Type: text/markdown\n\n"
    content[f"{info}/METADATA"] = head.encode() + files["README.md"]
    lines = ["Wheel-Version: 1.0", "Generator: vb", "Root-Is-Purelib: false", *(f"Tag: py3-none-{platform}" for platform in platforms)]
    content[f"{info}/WHEEL"] = ("\n".join(lines) + "\n").encode()
    for name in LICENCES:
        content[f"{info}/licenses/{name}"] = files[name]
    content[f"{info}/sboms/vb.cdx.json"] = files["vb.cdx.json"]
    record = []
    for path, data in content.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        record.append(f"{path},sha256={digest},{len(data)}\n")
    content[f"{info}/RECORD"] = ("".join(record) + f"{info}/RECORD,,\n").encode()
    path = out / f"vb-{version}-py3-none-{'.'.join(platforms)}.whl"
    # Zip has no dates before 1980.
    date = datetime.fromtimestamp(max(epoch, 315_619_200), timezone.utc).timetuple()[:6]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as wheel:
        for name, data in content.items():
            entry = zipfile.ZipInfo(name, date)
            entry.external_attr = (0o100755 if f"{scripts}/" in name else 0o100644) << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            wheel.writestr(entry, data)
    return path


if __name__ == "__main__":
    main()
