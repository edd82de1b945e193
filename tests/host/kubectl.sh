#!/bin/bash
# The script of that name in a Kubernetes release of 2016: runs the release's own kubectl, found beside this file.
set -o errexit -o nounset -o pipefail
KUBE_ROOT=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/..
exec "${KUBE_ROOT}/platforms/linux/amd64/kubectl" "$@"
