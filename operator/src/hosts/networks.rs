//! Where a host's `address` may lead. Whoever may write a BinderHost may name any address, and what comes of the attempt is in its
//! status; so the operator's administrator says which networks it connects to at all.
//!
//! Judged is the address that is dialled, after its name was resolved: no record of a DNS server gets around it.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Networks that no machine of a fleet is in, and that know secrets of the operator's own machine: link-local addresses, where
/// clouds keep what tells an instance its identity (`169.254.169.254`, for Google, Amazon, Azure and others alike), and Amazon's
/// and Google's ones of IPv6 (`fd00:ec2::254`, `fd20:ce::254`).
const NEVER: [IpNet; 4] = [
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(169, 254, 0, 0), 16)),
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10)),
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254), 128)),
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254), 128)),
];

/// Which addresses may be dialled.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Networks {
    /// These only; none: all of them.
    pub allow: Vec<IpNet>,
    /// None of these.
    pub deny: Vec<IpNet>,
}

impl Networks {
    /// Whether an address may be dialled. What is denied stays denied; what is never dialled by default is where an allowed
    /// network lies within it.
    pub fn allow(&self, address: IpAddr) -> bool {
        // `::ffff:169.254.169.254` is the same machine.
        let address = address.to_canonical();
        let within = |networks: &[IpNet]| networks.iter().any(|network| network.contains(&address));
        if within(&self.deny) {
            return false;
        }
        if let Some(never) = NEVER.iter().find(|never| never.contains(&address)) {
            return self.allow.iter().any(|network| never.contains(network) && network.contains(&address));
        }
        self.allow.is_empty() || within(&self.allow)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics is a test that fails")]
mod tests {
    use super::*;

    fn networks(allow: &[&str], deny: &[&str]) -> Networks {
        let parsed = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        Networks { allow: parsed(allow), deny: parsed(deny) }
    }

    fn allows(networks: &Networks, addresses: &[&str]) -> Vec<bool> {
        addresses.iter().map(|address| networks.allow(address.parse().unwrap())).collect()
    }

    #[test]
    fn a_machines_own_identity_is_never_dialled_unless_somebody_says_so() {
        let metadata =
            ["169.254.169.254", "::ffff:169.254.169.254", "169.254.1.1", "fe80::1", "fd00:ec2::254", "fd20:ce::254"];
        for lists in [networks(&[], &[]), networks(&["0.0.0.0/0", "::/0"], &[])] {
            assert_eq!(allows(&lists, &metadata), [false; 6], "a network that holds everything says nothing of these");
            assert_eq!(allows(&lists, &["10.0.0.1", "192.0.2.1", "2001:db8::1", "127.0.0.1"]), [true; 4]);
        }
        let meant = networks(&["169.254.7.0/24"], &[]);
        assert_eq!(allows(&meant, &["169.254.7.1", "169.254.169.254", "10.0.0.1"]), [true, false, false]);
    }

    #[test]
    fn only_what_is_allowed_and_nothing_that_is_denied() {
        let lists = networks(&["10.0.0.0/8", "2001:db8::/32"], &["10.9.0.0/16"]);
        let addresses = ["10.1.2.3", "::ffff:10.1.2.3", "10.9.0.1", "192.0.2.1", "2001:db8::5", "2001:db9::5"];
        assert_eq!(allows(&lists, &addresses), [true, true, false, false, true, false]);
        assert_eq!(allows(&networks(&[], &["0.0.0.0/0"]), &["10.1.2.3", "2001:db8::5"]), [false, true]);
    }
}
