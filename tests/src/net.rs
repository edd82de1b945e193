//! The lab's network: one bridge, and for each host a namespace with one cable, `eth0` inside.
//!
//! The kernel is the register of who has which network: making a bridge of a name succeeds for one lab only. All traffic
//! stays between this computer and the namespaces that the lab made. Knows nothing of what runs in a namespace.

use std::path::{Path, PathBuf};

use crate::command::{CommandError, Run};
use crate::inventory::Network;

/// A network could not be made or changed.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// `ip` failed.
    #[error(transparent)]
    Ip(#[from] CommandError),
    /// Every network is taken.
    #[error(
        "all 256 lab networks (198.18.0.0/16) are taken; `ip link show type bridge` lists them as binderlab0 to 255"
    )]
    Full,
}

/// Where `ip netns` keeps the names of namespaces.
const NAMESPACES: &str = "/run/netns";

async fn ip(args: &[&str]) -> Result<String, CommandError> {
    Run::new("ip").args(args).succeed().await
}

/// Whether an interface, of whatever kind, exists on this computer.
pub fn interface_exists(name: &str) -> bool {
    Path::new("/sys/class/net").join(name).exists()
}

/// Takes the lowest free network by making its bridge. `id` tells the lab from all others; [`find`] finds the network by it.
///
/// # Errors
/// `ip` is not allowed to, or all are taken.
pub async fn claim(id: &str) -> Result<Network, NetError> {
    for index in 0..=u8::MAX {
        let network = Network(index);
        let bridge = network.bridge();
        if interface_exists(&bridge) {
            continue;
        }
        match ip(&["link", "add", &bridge, "type", "bridge"]).await {
            Ok(_) => {
                // Whoever finds the bridge, a person or a later `down`, knows whose it is.
                ip(&["link", "set", &bridge, "alias", &alias(id)]).await?;
                ip(&["addr", "add", &format!("{}/24", network.computer()), "dev", &bridge]).await?;
                ip(&["link", "set", &bridge, "up"]).await?;
                return Ok(network);
            }
            // Another lab was faster.
            Err(_) if interface_exists(&bridge) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(NetError::Full)
}

fn alias(id: &str) -> String {
    format!("binder lab {id}")
}

/// The networks that a lab has; more than one only when it was ended in the middle of its start.
pub fn find(id: &str) -> Vec<Network> {
    let owns = |network: &Network| {
        let file = Path::new("/sys/class/net").join(network.bridge()).join("ifalias");
        std::fs::read_to_string(file).is_ok_and(|text| text.trim() == alias(id))
    };
    (0..=u8::MAX).map(Network).filter(owns).collect()
}

/// Gives a network back, with every namespace in it. One that is not there is fine.
///
/// # Errors
/// `ip` failed.
pub async fn release(network: Network) -> Result<(), NetError> {
    let prefix = network.namespace("");
    for entry in std::fs::read_dir(NAMESPACES).into_iter().flatten().flatten() {
        if let Some(name) = entry.file_name().to_str().filter(|name| name.starts_with(&prefix)) {
            ip(&["netns", "del", name]).await?;
        }
    }
    if interface_exists(&network.bridge()) {
        ip(&["link", "del", &network.bridge()]).await?;
    }
    Ok(())
}

/// The file by which a namespace can be entered.
pub fn namespace_file(namespace: &str) -> PathBuf {
    Path::new(NAMESPACES).join(namespace)
}

/// A cable's hardware address, the same at each boot: a neighbour that remembers it is not misled by a reboot.
fn hardware_address(network: Network, octet: u8) -> String {
    // Locally administered, unicast (bit 1 set and bit 0 clear in the first byte).
    format!("02:b1:{:02x}:00:00:{octet:02x}", network.0)
}

/// Makes a host's namespace and plugs it in. What was there of the same name is thrown away first, with its firewall
/// rules and sockets, as a reboot does.
///
/// `addresses` are the last parts of the host's addresses, the main one first.
///
/// # Errors
/// `ip` failed.
pub async fn plug_in(network: Network, namespace: &str, addresses: &[u8]) -> Result<(), NetError> {
    unplug(network, namespace, addresses).await?;
    let Some(&octet) = addresses.first() else { return Ok(()) };
    let cable = network.cable(octet);
    ip(&["netns", "add", namespace]).await?;
    ip(&[
        "link",
        "add",
        &cable,
        "type",
        "veth",
        "peer",
        "name",
        "eth0",
        "address",
        &hardware_address(network, octet),
        "netns",
        namespace,
    ])
    .await?;
    ip(&["link", "set", &cable, "master", &network.bridge(), "up"]).await?;
    ip(&["-n", namespace, "link", "set", "lo", "up"]).await?;
    for &octet in addresses {
        let address = format!("{}/24", network.address(octet));
        ip(&["-n", namespace, "addr", "add", &address, "dev", "eth0"]).await?;
    }
    ip(&["-n", namespace, "link", "set", "eth0", "up"]).await?;
    ip(&["-n", namespace, "route", "add", "default", "via", &network.computer().to_string()]).await?;
    Ok(())
}

/// Throws a host's namespace and cable away. What is not there is fine.
///
/// # Errors
/// `ip` failed.
pub async fn unplug(network: Network, namespace: &str, addresses: &[u8]) -> Result<(), NetError> {
    // The cable first: a namespace that some process still holds would keep it, and its name, for a while.
    if let Some(&octet) = addresses.first()
        && interface_exists(&network.cable(octet))
    {
        ip(&["link", "del", &network.cable(octet)]).await?;
    }
    if namespace_file(namespace).exists() {
        ip(&["netns", "del", namespace]).await?;
    }
    Ok(())
}

/// Pulls or plugs the cable on this computer's side: the host itself sees its link go down, everybody else gets no
/// answer.
///
/// # Errors
/// `ip` failed, or the host has no cable since it is switched off.
pub async fn set_cable(network: Network, octet: u8, plugged: bool) -> Result<(), NetError> {
    let state = if plugged { "up" } else { "down" };
    ip(&["link", "set", &network.cable(octet), state]).await?;
    Ok(())
}
