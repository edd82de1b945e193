//! The steps to the machine as a whole, and to its way in. No facet of its own: a reboot is the last rung of other facets'
//! ladders, the others are against a host that is silent or refuses our login (`plan::outage`).

use super::step::{
    CloudCall, Effect, How, Later, Nature, OfModules, Recovers, Remedy, Touches, all_plain, kinds_of_steps, plain,
};
use crate::gate::demands::Demands;
use crate::seen::Unknown;
use binder_crds::text::{BadText, Checked, UserName};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How long a machine may take from a restart until it answers again: a cloud instance needs one to three minutes.
pub const BOOTS_WITHIN: Duration = Duration::from_secs(300);

/// Restarts the machine if it still runs the boot that is to end, so that a command that comes late restarts nothing. The
/// answer comes before the end does. Always in order: what refuses (systemd, for an inhibitor such as an upgrade of packages)
/// is not gone round, and nothing is forced.
const REBOOT: &str = r#"
set -u
[ "$(cat /proc/sys/kernel/random/boot_id)" = "$1" ] || { echo "the machine has been restarted meanwhile"; exit 0; }
sudo -n true || exit 77
setsid sh -c '
sleep 1
sync
if [ -d /run/systemd/system ]; then exec sudo -n systemctl reboot; fi
sudo -n reboot || sudo -n busybox reboot
' </dev/null >/dev/null 2>&1 &
"#;

/// A step to the whole machine, or to its way in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all_fields = "camelCase")]
pub enum Step {
    /// Restart the machine from inside.
    Reboot {
        /// The boot that is to end: another one is left alone.
        boot_id: String,
    },
    /// Reset the machine's instance in its cloud.
    PowerCycle {
        /// The boot that was last seen, if the machine was ever seen.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        boot_id: Option<String>,
    },
    /// Start the machine's instance, which its cloud says is off.
    PowerOn {
        /// The boot that was last seen, if the machine was ever seen.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        boot_id: Option<String>,
    },
    /// Add the public half of our login key to the instance's SSH keys.
    AuthorizeKey {
        /// The login.
        user: String,
        /// The public key, as a line of `authorized_keys`.
        public_key: String,
    },
}

kinds_of_steps!(Step: Reboot, PowerCycle, PowerOn, AuthorizeKey);

impl Remedy for Step {
    fn words(&self) -> String {
        match self {
            Self::Reboot { .. } => "reboot the machine".to_owned(),
            Self::PowerCycle { .. } => "power-cycle the machine".to_owned(),
            Self::PowerOn { .. } => "start the machine's instance, which is off".to_owned(),
            Self::AuthorizeKey { user, .. } => {
                format!("add the operator's public key to the instance's SSH keys, for {user}")
            }
        }
    }

    fn nature(&self) -> Nature<'_> {
        let (touches, demands, recovers) = match self {
            Self::Reboot { boot_id } => {
                (Touches::Host { boot: Some(boot_id) }, Demands::RESTART, Recovers::MachineThatServesNothing)
            }
            // Who is silent or off serves nobody.
            Self::PowerCycle { boot_id } | Self::PowerOn { boot_id } => {
                (Touches::Host { boot: boot_id.as_deref() }, Demands::SILENT, Recovers::TheDead)
            }
            Self::AuthorizeKey { .. } => (Touches::Nothing, Demands::ONE_LOOK, Recovers::Nothing),
        };
        Nature {
            touches,
            demands,
            in_turn: matches!(touches, Touches::Host { .. }),
            parts: 1,
            modules: OfModules::Apart,
            opens_way_in: true,
            // What lasts is told by the operator's own clock, or by one that no set of the clock moves.
            rests_on_age: false,
            starts: false,
            recovers,
        }
    }

    fn checked(&self) -> Result<(), BadText> {
        match self {
            Self::Reboot { boot_id } => plain("boot id", boot_id),
            Self::PowerCycle { boot_id } | Self::PowerOn { boot_id } => all_plain("boot id", boot_id),
            Self::AuthorizeKey { user, public_key } => {
                UserName(user.clone()).checked()?;
                plain("public key", public_key)
            }
        }
    }

    fn effect(&self, later: &Later<'_>) -> Result<Effect, Unknown> {
        let before = match self {
            // That it was looked at at all is the effect.
            Self::AuthorizeKey { user, .. } => return Ok(Effect::Seen(format!("{user} is let in"))),
            Self::Reboot { boot_id } => Some(boot_id),
            Self::PowerCycle { boot_id } | Self::PowerOn { boot_id } => boot_id.as_ref(),
        };
        let machine = later.seen.machine.get()?;
        // A changed boot id is the proof. Of a machine that was never seen before, a boot younger than the step is.
        Ok(match before {
            Some(before) if *before == machine.boot_id => {
                Effect::NotYet(format!("the machine still runs boot {before}"))
            }
            None if machine.up_for() > later.age.as_secs() => {
                Effect::NotYet("the machine runs since before the step".to_owned())
            }
            _ => Effect::Seen(format!("the machine runs boot {}", machine.boot_id)),
        })
    }

    fn how(&self) -> How {
        match self {
            Self::Reboot { boot_id } => How::command("reboot", REBOOT, vec![boot_id.clone()], 20),
            Self::PowerCycle { .. } => How::Cloud(CloudCall::Reset),
            Self::PowerOn { .. } => How::Cloud(CloudCall::Start),
            Self::AuthorizeKey { user, public_key } => {
                How::Cloud(CloudCall::AddKey { user: user.clone(), public_key: public_key.clone() })
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics is a test that fails")]
mod tests {
    use super::super::step::tests::run;
    use super::*;

    #[test]
    fn a_reboot_that_is_refused_is_not_forced() {
        assert!(!REBOOT.contains(" -f"), "an unsynced reboot");
        // With systemd, what it refuses (an inhibitor) ends there.
        let after = REBOOT.split("then exec sudo -n systemctl reboot; fi").nth(1).unwrap();
        assert!(!after.contains("systemctl") && REBOOT.contains("\nsync\n"));
        // A command that comes late restarts nothing.
        assert!(run(REBOOT, &["another-boot"]).1.contains("has been restarted meanwhile"));
    }
}
