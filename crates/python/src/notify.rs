//! systemd's notification protocol: datagrams to `$NOTIFY_SOCKET`, a path or an abstract name (`@…`).

use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Where notifications go; nowhere when the variable is not set. A manager that went away is not an error.
pub struct Notifier(Option<(UnixDatagram, SocketAddr)>);

impl Notifier {
    /// Reads `$NOTIFY_SOCKET`.
    pub fn from_env() -> Self {
        let name = std::env::var("NOTIFY_SOCKET").ok().filter(|name| !name.is_empty());
        Self(name.and_then(|name| open(&name)))
    }

    /// Whether anybody listens.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Sends one message, e.g. `READY=1`. Never blocks.
    pub fn send(&self, message: &str) {
        if let Some((socket, address)) = &self.0 {
            _ = socket.send_to_addr(message.as_bytes(), address);
        }
    }
}

fn open(name: &str) -> Option<(UnixDatagram, SocketAddr)> {
    let address = match name.strip_prefix('@') {
        Some(hidden) => abstract_address(hidden)?,
        None => SocketAddr::from_pathname(name).ok()?,
    };
    let socket = UnixDatagram::unbound().ok()?;
    socket.set_nonblocking(true).ok()?;
    Some((socket, address))
}

#[cfg(target_os = "linux")]
fn abstract_address(name: &str) -> Option<SocketAddr> {
    use std::os::linux::net::SocketAddrExt as _;
    SocketAddr::from_abstract_name(name).ok()
}

#[cfg(not(target_os = "linux"))]
fn abstract_address(_: &str) -> Option<SocketAddr> {
    None
}
