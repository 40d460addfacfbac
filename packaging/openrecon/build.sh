#!/usr/bin/env bash
# Builds the package for numaris VA60/XA60: NAME.zip with NAME.tar (docker save) and NAME.pdf (the manual, which is yours to write).
#     packaging/openrecon/build.sh manual.pdf [options of docker build]
# for instance with a registry and an index of your own:
#     packaging/openrecon/build.sh manual.pdf --build-arg BASE=registry.hospital/debian:12 --build-arg TORCH_INDEX=https://pypi.hospital/cpu
# It needs Docker older than 25, whose image format those scanners read, zip, and `recon` on the PATH.
set -euo pipefail
manual=$(realpath "${1:?give the manual, a PDF: the scanner refuses a package without one}")
shift
cd "$(dirname "$0")/../.."
label() { recon openrecon-label --config packaging/openrecon/site.toml "$@"; }
# The scanner takes a package only where its files are named by the label: OpenRecon_<vendor>_<name>_V<version>.
name=$(label | python3 -c 'import json, sys; g = json.load(sys.stdin)["general"]; print("OpenRecon_{}_{}_V{}".format(g["vendor"], g["name"]["en"], g["version"]))')
[ "${1:-}" != --name ] || { echo "$name"; exit; }
[ -f "$manual" ] || { echo "there is no manual $manual: the scanner refuses a package without one" >&2; exit 1; }
for tool in docker zip; do
    command -v $tool >/dev/null || { echo "$tool is not installed; on Debian: apt-get install docker.io zip" >&2; exit 1; }
done
major=$(docker version --format '{{.Server.Version}}' | cut -d. -f1)
((major < 25)) || echo "warning: Docker $major writes an image format that VA60 and XA60 do not read" >&2
docker build --platform linux/amd64 -f packaging/openrecon/Dockerfile -t "${name,,}:latest" --build-arg LABEL="$(label --base64)" "$@" .
mkdir -p dist
docker save "${name,,}:latest" -o "dist/$name.tar"
! tar -tf "dist/$name.tar" | grep -qx oci-layout || echo "warning: dist/$name.tar is in the OCI format, which VA60 and XA60 do not read" >&2
cp "$manual" "dist/$name.pdf"
rm -f "dist/$name.zip" # zip adds to what is there
(cd dist && zip -q "$name.zip" "$name.tar" "$name.pdf")
echo "dist/$name.zip"
