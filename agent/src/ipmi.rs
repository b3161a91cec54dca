//! Asking the machine's own BMC where it answers on the network, through the kernel's IPMI
//! device (Linux, `include/uapi/linux/ipmi.h`; IPMI 2.0, 23.2 Get LAN Configuration Parameters).

use std::{
    fs::File,
    io,
    net::Ipv4Addr,
    os::fd::{AsFd, AsRawFd},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

const DEVICE: &str = "/dev/ipmi0";
/// The interface tests itself when its driver is loaded.
const APPEARS: Duration = Duration::from_secs(5);
/// Milliseconds; what a sound BMC needs is a tenth of this.
const ANSWERS: u16 = 2000;

const SYSTEM_INTERFACE: i32 = 0x0c;
const BMC_CHANNEL: i16 = 0x0f;
const TRANSPORT: u8 = 0x0c;
const GET_LAN_PARAMETER: u8 = 0x02;
const IP_ADDRESS: u8 = 3;
/// Most have their LAN on channel 1, some elsewhere; 8 is the last that can be one.
const CHANNELS: std::ops::RangeInclusive<u8> = 1..=8;

/// `struct ipmi_system_interface_addr`
#[repr(C)]
struct Address {
    kind: i32,
    channel: i16,
    lun: u8,
}

/// `struct ipmi_msg`
#[repr(C)]
struct Message {
    function: u8,
    command: u8,
    len: u16,
    data: *mut u8,
}

/// `struct ipmi_req`
#[repr(C)]
struct Request {
    address: *mut Address,
    address_len: u32,
    id: libc::c_long,
    message: Message,
}

/// `struct ipmi_recv`
#[repr(C)]
struct Received {
    kind: i32,
    address: *mut Address,
    address_len: u32,
    id: libc::c_long,
    message: Message,
}

mod ioctl {
    nix::ioctl_read!(send, b'i', 13, super::Request);
    nix::ioctl_readwrite!(receive, b'i', 11, super::Received);
}

/// Where the BMC answers; `None` where it does not say, or has no address.
pub(crate) fn lan_address() -> Option<Ipv4Addr> {
    let device = open()?;
    CHANNELS.into_iter().find_map(|channel| {
        let answer = ask(&device, channel).ok()?;
        address_in(&answer)
    })
}

fn open() -> Option<File> {
    let until = Instant::now() + APPEARS;
    while !Path::new(DEVICE).exists() && Instant::now() < until {
        thread::sleep(Duration::from_millis(20));
    }
    File::options().read(true).write(true).open(DEVICE).ok()
}

/// Completion code, parameter revision, then the parameter.
fn address_in(answer: &[u8]) -> Option<Ipv4Addr> {
    let [0, _, address @ ..] = answer else { return None };
    let address = Ipv4Addr::from(*address.first_chunk::<4>()?);
    (!address.is_unspecified() && !address.is_broadcast()).then_some(address)
}

fn ask(device: &File, channel: u8) -> io::Result<Vec<u8>> {
    let mut address = Address { kind: SYSTEM_INTERFACE, channel: BMC_CHANNEL, lun: 0 };
    let mut data = [channel, IP_ADDRESS, 0, 0];
    let message = Message {
        function: TRANSPORT,
        command: GET_LAN_PARAMETER,
        len: data.len() as u16,
        data: data.as_mut_ptr(),
    };
    let address_len = size_of::<Address>() as u32;
    let id = libc::c_long::from(channel);
    let mut request = Request { address: &raw mut address, address_len, id, message };
    // SAFETY: all that `request` points to is alive and as long as it says.
    #[expect(unsafe_code, reason = "an ioctl")]
    unsafe {
        ioctl::send(device.as_raw_fd(), &raw mut request)?;
    }
    let mut ready = [PollFd::new(device.as_fd(), PollFlags::POLLIN)];
    if poll(&mut ready, PollTimeout::from(ANSWERS))? == 0 {
        return Err(io::ErrorKind::TimedOut.into());
    }
    receive(device, &mut address)
}

fn receive(device: &File, address: &mut Address) -> io::Result<Vec<u8>> {
    let mut data = vec![0_u8; 64];
    let message =
        Message { function: 0, command: 0, len: data.len() as u16, data: data.as_mut_ptr() };
    let mut received = Received {
        kind: 0,
        address: &raw mut *address,
        address_len: size_of::<Address>() as u32,
        id: 0,
        message,
    };
    // SAFETY: as above; the kernel writes at most `len` bytes of data and says how many.
    #[expect(unsafe_code, reason = "an ioctl")]
    unsafe {
        ioctl::receive(device.as_raw_fd(), &raw mut received)?;
    }
    data.truncate(usize::from(received.message.len));
    Ok(data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_an_address_or_nothing() {
        let address = Some(Ipv4Addr::new(10, 0, 0, 120));
        assert_eq!(address_in(&[0, 0x11, 10, 0, 0, 120]), address);
        for answer in [&[0xc1][..], &[0, 0x11], &[0, 0x11, 0, 0, 0, 0], &[], &[0, 0x11, 10, 0]] {
            assert_eq!(address_in(answer), None, "{answer:?}");
        }
    }

    #[test]
    fn structures_are_as_long_as_the_kernel_has_them() {
        assert_eq!((size_of::<Address>(), size_of::<Message>()), (8, 16));
        assert_eq!((size_of::<Request>(), size_of::<Received>()), (40, 48));
    }
}
