#!/usr/bin/env bash
# Builds the package for numaris VA60/XA60: NAME.zip with NAME.tar (docker save) and NAME.pdf (the manual, which is yours to write).
#     packaging/openrecon/build.sh manual.pdf
# It needs Docker older than 25, whose image format those scanners read, and `recon` on the PATH.
set -euo pipefail
manual=${1:?give the manual, a PDF: the scanner refuses a package without one}
cd "$(dirname "$0")/../.."
label() { recon openrecon-label --config packaging/openrecon/site.toml "$@"; }
# The scanner takes a package only where its files are named by the label: OpenRecon_<vendor>_<name>_V<version>.
name=$(label | python3 -c 'import json, sys; g = json.load(sys.stdin)["general"]; print("OpenRecon_{}_{}_V{}".format(g["vendor"], g["name"]["en"], g["version"]))')
[ "${2:-}" != --name ] || { echo "$name"; exit; }
major=$(docker version --format '{{.Server.Version}}' | cut -d. -f1)
((major < 25)) || echo "warning: Docker $major writes an image format that VA60 and XA60 do not read" >&2
docker build --platform linux/amd64 -f packaging/openrecon/Dockerfile -t "${name,,}:latest" --build-arg LABEL="$(label --base64)" .
mkdir -p dist
docker save "${name,,}:latest" -o "dist/$name.tar"
! tar -tf "dist/$name.tar" | grep -qx oci-layout || echo "warning: dist/$name.tar is in the OCI format, which VA60 and XA60 do not read" >&2
cp "$manual" "dist/$name.pdf"
(cd dist && zip -q "$name.zip" "$name.tar" "$name.pdf")
echo "dist/$name.zip"
