#!/bin/sh
# Takes the place of docker-compose for the two compose files of binder-control, whose images cannot be had any more:
# runs what the containers would run, under the same name, in the foreground, on the ports and folders of its environment.
set -eu
file=
while [ $# -gt 0 ]; do
  case $1 in
    -f) file=$2; shift 2 ;;
    up) shift ;;
    *) echo "docker-compose: '$1' is not understood here" >&2; exit 2 ;;
  esac
done
case $file in
  */services/db/docker-compose.yml)
    exec /usr/local/lib/binder-lab/ferretdb --listen "0.0.0.0:$MONGODB_PORT" --data "$MONGODB_DIR" ;;
  */services/logging/docker-compose.yml)
    export LOGGING_FILE=/data/binder/logging.txt
    exec node /usr/local/lib/binder-control/logging.js ;;
  *) echo "docker-compose: no such file: $file" >&2; exit 1 ;;
esac
