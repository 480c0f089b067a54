//! Two sites that are far from each other: a network namespace for each, and one between them that can be made to
//! forward nothing.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// The namespaces, gone with this value.
#[derive(Debug)]
pub struct Wan {
    middle: String,
    ends: [String; 2],
}

impl Wan {
    /// Makes one; `Err` says why this machine cannot.
    pub fn new() -> Result<Wan, String> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        if !crate::is_root() {
            return Err("network namespaces need root".to_owned());
        }
        let id = format!("bkst-{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let wan = Wan { middle: format!("{id}-wan"), ends: [format!("{id}-a"), format!("{id}-b")] };
        let middle = &wan.middle;
        ip(&format!("netns add {middle}"))?;
        for (at, end) in wan.ends.iter().enumerate() {
            let (port, gateway) = (format!("port{at}"), Ipv4Addr::new(10, 77, u8::try_from(at).unwrap(), 1));
            ip(&format!("netns add {end}"))?;
            ip(&format!("-n {end} link add wan type veth peer name {port} netns {middle}"))?;
            ip(&format!("-n {middle} addr add {gateway}/24 dev {port}"))?;
            ip(&format!("-n {middle} link set {port} up"))?;
            ip(&format!("-n {end} addr add {}/24 dev wan", wan.listen(at).ip()))?;
            ip(&format!("-n {end} link set lo up"))?;
            ip(&format!("-n {end} link set wan up"))?;
            ip(&format!("-n {end} route add default via {gateway}"))?;
        }
        wan.plug();
        Ok(wan)
    }

    /// Where a daemon at an end, 0 or 1, listens. Each WAN has name spaces of its own, so all use the same.
    pub fn listen(&self, end: usize) -> SocketAddr {
        let address = Ipv4Addr::new(10, 77, u8::try_from(end).unwrap(), 2);
        SocketAddr::new(IpAddr::V4(address), 7443)
    }

    /// The program that starts another one at an end.
    pub fn wrapper(&self, end: usize) -> Vec<String> {
        vec!["nsenter".to_owned(), net(&self.ends[end])]
    }

    /// Nothing comes through any more, and neither end is told.
    pub fn cut(&self) {
        self.forward(0);
    }

    /// Everything comes through again.
    pub fn plug(&self) {
        self.forward(1);
    }

    fn forward(&self, on: u8) {
        let mut command = Command::new("nsenter");
        command.arg(net(&self.middle)).args([
            "sh",
            "-c",
            &format!("echo {on} >/proc/sys/net/ipv4/ip_forward"),
        ]);
        assert!(command.status().unwrap().success(), "{command:?}");
    }
}

impl Drop for Wan {
    fn drop(&mut self) {
        for name in self.ends.iter().chain([&self.middle]) {
            if let Err(error) = ip(&format!("netns del {name}")) {
                eprintln!("{error}");
            }
        }
    }
}

fn net(name: &str) -> String {
    format!("--net=/run/netns/{name}")
}

fn ip(words: &str) -> Result<(), String> {
    let output =
        Command::new("ip").args(words.split(' ')).output().map_err(|error| format!("ip: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("ip {words}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}
