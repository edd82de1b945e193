//! Faults of the way in: sshd's keys, the login, sudo, what a login shell prints.

use super::{Act, Fault, FaultError, Healer, Site, Target, shows};
use crate::cloud::metadata::{KEYS, Metadata};
use crate::files;
use crate::host::enter::Host;
use crate::host::furnish::sudoers;
use crate::lab::Lab;

pub(super) const FAULTS: &[Fault] = &[
    Fault {
        name: "host-key-changed",
        does: "sshd shows another host key, and open connections are cut",
        healed_by: Healer::Mend,
        target: Target::Any,
        inflict: CHANGE_HOST_KEY,
        undo: Some(RESTORE_HOST_KEY),
    },
    Fault {
        name: "ssh-permission",
        does: "our public key is no longer among the authorized ones, nor in the instance's metadata; open connections are cut",
        healed_by: Healer::Operator,
        target: Target::Any,
        inflict: REFUSE_KEY,
        undo: Some(ACCEPT_KEY),
    },
    Fault {
        name: "ssh-hung",
        does: "sshd and all its sessions hang; everything else on the machine goes on",
        healed_by: Healer::Mend,
        target: Target::Any,
        inflict: HOLD,
        undo: Some(LET_GO),
    },
    Fault {
        name: "sudo-password",
        does: "sudo wants a password that nobody has",
        healed_by: Healer::Mend,
        target: Target::Any,
        inflict: WANT_PASSWORD,
        undo: Some(WANT_NO_PASSWORD),
    },
    Fault {
        name: "login-noise",
        does: "the login shell prints garbage before every command: escape codes, half a JSON, a prompt, bytes",
        healed_by: Healer::Mend,
        target: Target::Any,
        inflict: MAKE_NOISE,
        undo: Some(KEEP_QUIET),
    },
];

const CHANGE_HOST_KEY: Act = |site| Box::pin(change_host_key(site));
const RESTORE_HOST_KEY: Act = |site| Box::pin(restore_host_key(site));
const REFUSE_KEY: Act = |site| Box::pin(refuse_key(site));
const ACCEPT_KEY: Act = |site| {
    Box::pin(async move {
        site.host.script("cd /home/andrew/.ssh; [ ! -e kept ] || mv kept authorized_keys", &[]).await?;
        Ok(())
    })
};
const HOLD: Act = |site| Box::pin(hold(site));
const LET_GO: Act = |site| {
    Box::pin(async move {
        site.host.script(super::OPEN_SSH, &[]).await?;
        Ok(())
    })
};
const WANT_PASSWORD: Act = |site| Box::pin(set_sudo(site, false));
const WANT_NO_PASSWORD: Act = |site| Box::pin(set_sudo(site, true));
const MAKE_NOISE: Act = |site| Box::pin(make_noise(site));
const KEEP_QUIET: Act = |site| {
    Box::pin(async move {
        site.host.script("sed -i '/# binder-lab noise$/d' /home/andrew/.bashrc", &[]).await?;
        Ok(())
    })
};

/// Makes sshd read its files again, and then ends the connections that it has: each is a child of the one that listens. In this
/// order, so that none is made meanwhile by what it read before.
const RESTART_SSHD: &str = "listener=$(ss -ltnpH 'sport = :22' | grep -o 'pid=[0-9]*' | head -n 1 | cut -d= -f2); \
    kill -HUP $listener; for child in $(cat /proc/$listener/task/$listener/children); do kill -KILL $child; done";

/// Succeeds when sshd shows the key whose public half is in the file `$1`.
const SHOWS_KEY: &str = "seen=$(ssh-keyscan -T 5 -t ed25519 127.0.0.1 2>/dev/null | cut -d' ' -f3); echo \"shows $seen\"; \
    [ -n \"$seen\" ] && grep -qF \"$seen\" \"$1\"";

async fn change_host_key(site: Site<'_>) -> Result<(), FaultError> {
    let make = "cd /etc/ssh; [ -e kept_host_key ] || cp -p ssh_host_ed25519_key kept_host_key; \
        rm -f ssh_host_ed25519_key ssh_host_ed25519_key.pub; ssh-keygen -q -t ed25519 -N '' -f ssh_host_ed25519_key";
    site.host.script(make, &[]).await?;
    site.host.script(RESTART_SSHD, &[]).await?;
    shows(site.host, "sshd shows another key", SHOWS_KEY, &["/etc/ssh/ssh_host_ed25519_key.pub"]).await
}

async fn restore_host_key(site: Site<'_>) -> Result<(), FaultError> {
    let restore = "cd /etc/ssh; [ ! -e kept_host_key ] || mv kept_host_key ssh_host_ed25519_key; \
        ssh-keygen -y -f ssh_host_ed25519_key > ssh_host_ed25519_key.pub";
    site.host.script(restore, &[]).await?;
    site.host.script(RESTART_SSHD, &[]).await?;
    shows(site.host, "sshd shows its own key", SHOWS_KEY, &["/etc/ssh/ssh_host_ed25519_key.pub"]).await
}

/// Succeeds when the cloud's agent has taken the key `$1` out of the file again, or never put it there.
const NOT_PLACED: &str = "! grep -A 1 -x '# Added by Google' /home/andrew/.ssh/authorized_keys | grep -qF \"$1\"";

/// Succeeds when somebody else's key is still let in, ours is again by the cloud's agent, once, and the machine has not been
/// restarted since it refused ours (`$1`, the key's body).
const LET_IN: &str = "file=/home/andrew/.ssh/authorized_keys; grep -qF -f /tmp/other.pub $file; \
    grep -A 1 -x '# Added by Google' $file | grep -qF \"$1\"; [ \"$(grep -cF \"$1\" $file)\" = 1 ]; \
    cmp -s /tmp/boot-that-refused /proc/sys/kernel/random/boot_id";

/// Looks whether a login that was refused is let in again, in the same boot, with all that others put there.
///
/// # Errors
/// It is not so yet, or could not be looked at.
pub(crate) async fn let_in_again(lab: &Lab, host: &Host) -> Result<(), FaultError> {
    let public = files::read(&lab.layout().login_key().with_extension("pub"))?;
    let key = public.split(' ').nth(1).unwrap_or_default().to_owned();
    let metadata = Metadata::read(&lab.layout().host(host.name()).metadata())?;
    let lines: Vec<&str> = metadata.get(KEYS).unwrap_or_default().lines().collect();
    let otherwise =
        |what: &str| Err(FaultError::NothingToBreak { host: host.name().to_owned(), what: what.to_owned() });
    if lines.iter().filter(|line| line.contains(&key)).count() != 1 {
        return otherwise("our key is not in the metadata once");
    }
    if lines.first().is_none_or(|line| !line.starts_with("carol:")) || metadata.get("startup-script-url").is_none() {
        return otherwise("what others put into the metadata is gone");
    }
    host.script(LET_IN, &[&key]).await?;
    match host.ssh("true", super::SHOWS).await? {
        output if output.code == Some(0) => Ok(()),
        output => otherwise(&format!("the login ends with {:?}: {}", output.code, output.said())),
    }
}

/// Takes our key out of what the cloud puts on the machine, as somebody would who tidies up there.
async fn forget_key(site: Site<'_>) -> Result<(), FaultError> {
    let public = files::read(&site.lab.layout().login_key().with_extension("pub"))?;
    let key = public.split(' ').nth(1).unwrap_or_default().to_owned();
    let file = site.lab.layout().host(site.host.name()).metadata();
    let mut metadata = Metadata::read(&file)?;
    let others: Vec<&str> =
        metadata.get(KEYS).unwrap_or_default().lines().filter(|line| !line.contains(&key)).collect();
    let others = others.join("\n");
    metadata.set(KEYS, others);
    metadata.write(&file)?;
    shows(site.host, "the key is not the cloud's any more", NOT_PLACED, &[&key]).await
}

/// Succeeds when every sshd is stopped.
pub(super) const HELD: &str = "states=$(ps -C sshd -o stat=); [ -n \"$states\" ] && ! echo \"$states\" | grep -qv '^T'";

async fn hold(site: Site<'_>) -> Result<(), FaultError> {
    site.host.script(super::HOLD_SSH, &["300"]).await?;
    shows(site.host, "every sshd is held", HELD, &[]).await
}

async fn refuse_key(site: Site<'_>) -> Result<(), FaultError> {
    forget_key(site).await?;
    // Somebody else's key stays: the machine is not locked for everybody, only for us.
    let replace = "cd /home/andrew/.ssh; [ -e kept ] || mv authorized_keys kept; rm -f /tmp/other /tmp/other.pub; \
        cat /proc/sys/kernel/random/boot_id >/tmp/boot-that-refused; \
        ssh-keygen -q -t ed25519 -N '' -C somebody@else -f /tmp/other; \
        install -o andrew -g andrew -m 600 /tmp/other.pub authorized_keys";
    site.host.script(replace, &[]).await?;
    site.host.script(RESTART_SSHD, &[]).await?;
    let refused = |host: Host| async move {
        match host.ssh("true", super::SHOWS).await {
            Ok(output) if output.code == Some(255) && output.stderr.contains("Permission denied") => Ok(()),
            Ok(output) => Err(format!("a login ended with {:?}: {}", output.code, output.said())),
            Err(error) => Err(crate::said(&error)),
        }
    };
    Ok(site.host.until("our login is refused", super::SHOWS, refused).await?)
}

async fn set_sudo(site: Site<'_>, free: bool) -> Result<(), FaultError> {
    let path = site.host.path("etc/sudoers.d/binder")?;
    files::replace(&path, sudoers(free), 0o440)?;
    let look = if free { "sudo -n true" } else { "! sudo -n true" };
    site.host.script_as_user(look, &[]).await?;
    Ok(())
}

/// What a machine prints that somebody has "improved" over the years.
const NOISE: &str = r#"cd /home/andrew
line='printf "Welcome to \033[1;31mbinder\033[0m!\r\n[{\"name\":\"binder-web-start\"\n%% \001\377\376 $ \n"; printf "last login: never\n" >&2 # binder-lab noise'
grep -q '# binder-lab noise$' .bashrc || { { printf '%s\n' "$line"; cat .bashrc; } > .bashrc.new; cat .bashrc.new > .bashrc; rm .bashrc.new; }"#;

async fn make_noise(site: Site<'_>) -> Result<(), FaultError> {
    site.host.script(NOISE, &[]).await?;
    let output = site.host.ssh("true", super::SHOWS).await?;
    if output.stdout.contains("Welcome to") {
        return Ok(());
    }
    Err(FaultError::NothingToBreak {
        host: site.host.name().to_owned(),
        what: format!("a login prints nothing of the noise: {}", output.said()),
    })
}
