#!/bin/sh
# Runs dockerd as systemd runs Debian's docker.service: started again 2 s after it ended, and given up after three starts
# within a minute, until somebody says `service docker restart`.
given_up=/run/docker.given-up
rm -f "$given_up"
starts=0 first=0
while :; do
  now=$(date +%s)
  [ $((now - first)) -lt 60 ] || { starts=0 first=$now; }
  starts=$((starts + 1))
  if [ "$starts" -gt 3 ]; then
    # A file in memory, not on the disk that may be full.
    : > "$given_up"
    while [ -e "$given_up" ]; do sleep 0.5; done
    starts=1 first=$(date +%s)
  fi
  /usr/sbin/dockerd "$@"
  [ -e /run/docker.restart ] || sleep 2
  rm -f /run/docker.restart
done
