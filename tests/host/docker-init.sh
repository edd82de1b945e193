#!/bin/sh
# /etc/init.d/docker of the build host: `restart` ends dockerd, which its service starts again, given up or not.
[ "${1:-}" = restart ] || { echo "Usage: service docker restart" >&2; exit 3; }
if pgrep -x dockerd >/dev/null; then
  : > /run/docker.restart
  old=$(pgrep -x dockerd)
  kill -TERM $old
  for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
    kill -0 $old 2>/dev/null || break
    sleep 0.5
  done
fi
rm -f /run/docker.given-up
for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
  docker --config /nonexistent version >/dev/null 2>&1 && exit 0
  sleep 0.5
done
echo "Docker does not answer" >&2
exit 1
