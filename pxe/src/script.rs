//! The iPXE script of a node: pure text, made anew for every boot.
//!
//! Nothing of a boot is remembered here: the script names plain URLs, which keep working when
//! the server is restarted while the node loads them.

use protocol::path;

use crate::{mac::Mac, token::Token};

/// What a node is told to boot.
pub enum Script<'a> {
    /// The RAM system, because a deployment is open.
    RamSystem {
        /// Base URL under which this node reached us.
        server: &'a str,
        /// The interface that booted.
        mac: Mac,
        /// The one-time token for the agent.
        token: &'a Token,
        /// The node's name.
        node: &'a str,
        /// The image's name.
        image: &'a str,
    },
    /// Its own disk.
    Disk {
        /// The node's name, when it has one.
        node: &'a str,
    },
}

impl Script<'_> {
    /// The text that iPXE runs.
    pub fn render(&self) -> String {
        match self {
            Script::RamSystem { server, mac, token, node, image } => {
                ram_system(server, *mac, token, node, image)
            }
            Script::Disk { node } => disk(node),
        }
    }
}

/// Seconds after which a RAM system that panicked starts the machine again: nobody is there to do it,
/// and the deployment goes on from what is on the disk.
const PANIC: u32 = 10;

/// `initrd=` is what a kernel needs under UEFI to find its RAM disk; BIOS does not mind it.
/// iPXE itself fills in `${...}`: the addresses of the interface it booted from, and what it was built
/// for.
fn ram_system(server: &str, mac: Mac, token: &Token, node: &str, image: &str) -> String {
    let token = token.secret();
    let (boot, kernel, ramdisk) = (path::BOOT, path::KERNEL, path::RAMDISK);
    format!(
        "#!ipxe\n\
         iseq ${{buildarch}} arm64 && goto foreign ||\n\
         echo billet: {node} gets {image}\n\
         imgfree\n\
         kernel {server}{kernel} initrd=ramdisk panic={PANIC} console=tty0 console=ttyS0,115200 \
         billet.server={server} billet.mac={mac} billet.token={token} \
         billet.ip=${{ip}}/${{netmask}} billet.gateway=${{gateway}} || goto again\n\
         initrd {server}{ramdisk} || goto again\n\
         boot || goto again\n\
         :again\n\
         echo billet: the RAM system did not load from {server}, trying again in 5 seconds\n\
         sleep 5\n\
         chain --replace --autofree {server}{boot}/{mac} || goto again\n\
         :foreign\n\
         echo billet: {node} is an arm64 machine and the RAM system is for x86-64: nothing is written\n\
         exit 1\n"
    )
}

/// UEFI firmware goes on to its next boot option only when this one failed; a BIOS takes either.
fn disk(node: &str) -> String {
    format!(
        "#!ipxe\n\
         echo billet: nothing to do for {node}, starting its disk\n\
         iseq ${{platform}} efi && exit 1 ||\n\
         exit\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_with_a_deployment_gets_the_ram_system() {
        let token = Token::from_text("0123456789abcdef");
        let script = Script::RamSystem {
            server: "http://10.77.0.1:8080",
            mac: Mac([0x52, 0x54, 0, 0x77, 0, 1]),
            token: &token,
            node: "one",
            image: "bare",
        };
        insta::assert_snapshot!(script.render());
    }

    #[test]
    fn a_node_without_one_starts_its_disk() {
        insta::assert_snapshot!(Script::Disk { node: "one" }.render());
    }

    #[test]
    fn the_agent_understands_its_line() {
        let token = Token::from_text("abc");
        let mac = Mac([2, 0, 0, 0, 0, 1]);
        let script = ram_system("http://10.0.0.1:80", mac, &token, "one", "bare");
        let line = script.lines().find(|line| line.starts_with("kernel ")).unwrap();
        let line = line.replace("${ip}", "10.0.0.9").replace("${netmask}", "255.0.0.0");
        let boot = protocol::BootLine::parse(&line.replace("${gateway}", ""));
        assert_eq!(boot.server.as_deref(), Some("http://10.0.0.1:80"));
        assert_eq!(boot.mac.as_deref(), Some("02:00:00:00:00:01"));
        assert_eq!(boot.token.as_deref(), Some("abc"));
        assert_eq!(boot.ip.unwrap().0, std::net::Ipv4Addr::new(10, 0, 0, 9));
        assert_eq!(boot.gateway, None);
    }
}
