//! Faults of the build host's Docker and of its disk.
//!
//! Beside what the clean-up must remove, each of them leaves what it must not touch ([`BYSTANDERS`]); who heals must leave
//! these alone, and [`UNTOUCHED`] tells whether that was done.

use super::{Act, Fault, FaultError, Healer, Site, Target, shows};
use crate::inventory::Role;

pub(super) const FAULTS: &[Fault] = &[
    Fault {
        name: "disk-filling",
        does: "old Docker images that nothing uses, and a stopped container, fill the build host's disk to over 90 %",
        healed_by: Healer::Operator,
        target: Target::The(Role::Build),
        inflict: FILLING,
        undo: None,
    },
    Fault {
        name: "disk-full",
        does: "the build host's disk is full to the last block, `.dockercfg` is empty, and Docker cannot start any more",
        healed_by: Healer::Operator,
        target: Target::The(Role::Build),
        inflict: FULL,
        undo: None,
    },
    Fault {
        name: "reclaim-due",
        does: "old Docker images that nothing uses, and a stopped container, lie on a disk that is not full",
        healed_by: Healer::Operator,
        target: Target::The(Role::Build),
        inflict: LITTER,
        undo: None,
    },
];

const FILLING: Act = |site| Box::pin(filling(site));
const FULL: Act = |site| Box::pin(full(site));
const LITTER: Act = |site| Box::pin(litter(site));

/// `old_image NAME MEGABYTES SECONDS`: an image of zeros that was built, and came here, so many seconds ago. Docker takes the
/// time of building from what is loaded; when it came here is the time of its file. The layer is imported first, which needs its size
/// once; to load it would need it twice, and a layer that is there need not be loaded.
///
/// `old_container NAME IMAGE SECONDS`: a container that ended so many seconds ago; one that never ran is nobody's to remove.
/// Docker reads that time when it starts, so it is restarted.
const TOOLS: &str = r#"
old_image() {
  folder=$(mktemp -d /tmp/image.XXXXXX)
  mkdir "$folder/layer"
  cp /bin/busybox "$folder/layer/busybox"
  head -c "${2}M" /dev/zero > "$folder/layer/filling"
  echo "$1" > "$folder/layer/name"
  tar -C "$folder/layer" -c . | docker import - binder-lab-new:1 >/dev/null
  rm -r "$folder/layer"
  layer=$(docker image inspect --format '{{index .RootFS.Layers 0}}' binder-lab-new:1)
  then=$(date -u -d "@$(($(date +%s) - $3))" +%Y-%m-%dT%H:%M:%SZ)
  printf '{"architecture":"amd64","os":"linux","created":"%s","config":{"Cmd":["/busybox","sleep","100000"]},"rootfs":{"type":"layers","diff_ids":["%s"]},"history":[{"created":"%s"}]}' "$then" "$layer" "$then" > "$folder/config.json"
  printf '[{"Config":"config.json","RepoTags":["%s"],"Layers":["layer.tar"]}]' "$1" > "$folder/manifest.json"
  : > "$folder/layer.tar"
  tar -C "$folder" -c manifest.json config.json layer.tar | docker load >/dev/null
  rm -r "$folder"
  docker image rm binder-lab-new:1 >/dev/null
  id=$(docker image inspect --format '{{.Id}}' "$1")
  touch --date="$then" "/var/lib/docker/image/overlay2/imagedb/content/sha256/${id#sha256:}"
}
old_container() {
  docker run --net none --name "$1" "$2" /busybox true
  container=$(docker inspect --type container --format '{{.Id}}' "$1")
  then=$(date -u -d "@$(($(date +%s) - $3))" +%Y-%m-%dT%H:%M:%SZ)
  sed -i -e "s/\"Created\":\"[^\"]*\"/\"Created\":\"$then\"/" -e "s/\"FinishedAt\":\"[^\"]*\"/\"FinishedAt\":\"$then\"/" "/var/lib/docker/containers/$container/config.v2.json"
  service docker restart
}
"#;

/// What nobody may touch, of earlier times or made now: a container that runs, one that ended just now, the old images of
/// both, an image that is young, one on the keep list, and a login file that is not empty.
const BYSTANDERS: &str = r#"
docker container rm binder-lab-stopped >/dev/null 2>&1 || true
for name in binder-lab-running binder-lab-ended andrewosh/binder-base; do
  docker image inspect "$name:1" >/dev/null 2>&1 || old_image "$name:1" 1 7200
done
docker image rm binder-lab-young:1 >/dev/null 2>&1 || true
old_image binder-lab-young:1 1 60
old_image binder-lab-litter:1 2 7200
old_container binder-lab-stopped binder-lab-litter:1 7200
docker container inspect binder-lab-running >/dev/null 2>&1 || docker create --net none --name binder-lab-running binder-lab-running:1 >/dev/null
docker start binder-lab-running >/dev/null
docker container rm binder-lab-ended >/dev/null 2>&1 || true
docker run --net none --name binder-lab-ended binder-lab-ended:1 /busybox true
mkdir -p /root/.docker
echo '{"auths":{}}' > /root/.docker/config.json
"#;

/// Fills the disk with images that nobody uses until `$1` per cent of it are in use.
const FILL: &str = r#"
total=$(df --output=size --block-size=1M /var/lib/docker | tail -n 1)
used=$(df --output=used --block-size=1M /var/lib/docker | tail -n 1)
missing=$((total * $1 / 100 - used))
n=0
while [ "$missing" -gt 0 ]; do
  size=$((missing > 60 ? 60 : missing))
  n=$((n + 1))
  old_image "binder-lab-filling:$n" "$size" 7200
  missing=$((missing - size))
done
"#;

/// Takes every block: what is left for one byte more, and then for one folder more. First apt leaves a package that it has
/// installed, and Docker an empty login file, as it does when it writes one anew and has no room for what is to be in it.
const TAKE_EVERY_BLOCK: &str = r#"
mkdir -p /var/cache/apt/archives
head -c 4M /dev/zero > /var/cache/apt/archives/binder-lab-filling_1_all.deb
: > /home/andrew/.dockercfg
chown andrew: /home/andrew/.dockercfg
mkdir -p /var/log/binder-lab
cat /dev/zero > /var/log/binder-lab/filling 2>/dev/null || true
n=0
while [ "$n" -lt 4000 ] && echo x 2>/dev/null > "/var/log/binder-lab/$n"; do n=$((n + 1)); done
service docker restart >/dev/null 2>&1 || true
for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do [ -e /run/docker.given-up ] && break; sleep 1; done
"#;

/// Succeeds when at least `$1` per cent of the disk are in use.
const IN_USE: &str =
    "df /var/lib/docker | tail -n 1; [ \"$(df --output=pcent /var/lib/docker | tail -n 1 | tr -dc 0-9)\" -ge \"$1\" ]";

/// Succeeds when Docker's service has given up and the login file is empty.
const STUCK: &str = "! docker version >/dev/null 2>&1 && [ -e /run/docker.given-up ] && [ -f /home/andrew/.dockercfg ] && [ ! -s /home/andrew/.dockercfg ]";

/// Succeeds when what nobody may touch is there as it was.
pub(crate) const UNTOUCHED: &str = r#"
[ "$(docker container inspect --format '{{.State.Running}}' binder-lab-running)" = true ]
[ "$(docker container inspect --format '{{.State.Status}}' binder-lab-ended)" = exited ]
docker image inspect binder-lab-running:1 binder-lab-ended:1 binder-lab-young:1 andrewosh/binder-base:1 >/dev/null
[ "$(cat /root/.docker/config.json)" = '{"auths":{}}' ]
"#;

/// Makes what there is to clean up and what must be left alone, and then more, while nobody sees it: Docker is restarted.
async fn inflict(site: Site<'_>, more: &[(&str, &[&str])]) -> Result<(), FaultError> {
    shows(site.host, "Docker answers", "docker version", &[]).await?;
    super::unseen(site, async {
        site.host.script(&[TOOLS, BYSTANDERS].concat(), &[]).await?;
        shows(site.host, "the bystanders are there", UNTOUCHED, &[]).await?;
        for (script, args) in more {
            site.host.script(&[TOOLS, script].concat(), args).await?;
        }
        Ok(())
    })
    .await
}

async fn filling(site: Site<'_>) -> Result<(), FaultError> {
    inflict(site, &[(FILL, &["93"])]).await?;
    shows(site.host, "the disk is over 90 % full", IN_USE, &["91"]).await
}

async fn full(site: Site<'_>) -> Result<(), FaultError> {
    inflict(site, &[(FILL, &["90"]), (TAKE_EVERY_BLOCK, &[])]).await?;
    shows(site.host, "the disk is full", IN_USE, &["100"]).await?;
    shows(site.host, "Docker has given up", STUCK, &[]).await
}

async fn litter(site: Site<'_>) -> Result<(), FaultError> {
    inflict(site, &[("old_image binder-lab-litter:2 5 7200\n", &[])]).await?;
    let there = "docker image inspect binder-lab-litter:1 binder-lab-litter:2 >/dev/null && docker container inspect binder-lab-stopped >/dev/null";
    shows(site.host, "the litter is there", there, &[]).await
}
