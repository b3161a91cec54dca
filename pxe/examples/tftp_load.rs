//! Measures a TFTP server: many clients fetch one file at once, each on a blocking socket of its
//! own thread, and every byte is compared.
//!
//! `tftp_load --server 127.0.0.1:69 --file ipxe.efi --expect boot/ipxe.efi --clients 100`
//!
//! prints one line, or with `--json` one object: `mb_per_s` (10^6 bytes), `seconds`, `bytes`,
//! `timeouts` (a second went by without a packet), `repeated` (blocks that came twice or out of
//! order), `failed` (transfers that did not end well). The exit status is 1 when any failed.

use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    path::PathBuf,
    process::ExitCode,
    sync::{Arc, Barrier},
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use clap::Parser;

#[derive(Parser, Clone)]
struct Args {
    /// The server's address and port
    #[arg(long)]
    server: SocketAddr,
    /// The name to ask for
    #[arg(long)]
    file: String,
    /// The local file whose bytes must arrive
    #[arg(long)]
    expect: PathBuf,
    /// How many fetch at once
    #[arg(long, default_value_t = 1)]
    clients: usize,
    /// How often each of them fetches
    #[arg(long, default_value_t = 8)]
    rounds: usize,
    /// Block size to ask for
    #[arg(long, default_value_t = 1428)]
    block: u16,
    /// Window size to ask for; none is asked for when 1
    #[arg(long, default_value_t = 1)]
    window: u16,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// What one client, and in the end all of them, went through.
#[derive(Default)]
struct Count {
    bytes: u64,
    timeouts: u64,
    repeated: u64,
    failed: u64,
}

fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    let expected: Arc<[u8]> = std::fs::read(&args.expect).context("reading --expect")?.into();
    let barrier = Arc::new(Barrier::new(args.clients + 1));
    let threads: Vec<_> = (0..args.clients)
        .map(|_| {
            let (args, expected, barrier) = (args.clone(), expected.clone(), barrier.clone());
            let run = move || {
                barrier.wait();
                run(&args, &expected)
            };
            std::thread::Builder::new().stack_size(256 << 10).spawn(run)
        })
        .collect::<Result<_, _>>()
        .context("starting the clients")?;
    // Before the barrier: on a busy machine the clients may be done before this thread runs again.
    let began = Instant::now();
    barrier.wait();
    let mut all = Count::default();
    for thread in threads {
        let count = thread.join().map_err(|_| anyhow::anyhow!("a client panicked"))?;
        all.bytes += count.bytes;
        all.timeouts += count.timeouts;
        all.repeated += count.repeated;
        all.failed += count.failed;
    }
    let seconds = began.elapsed().as_secs_f64();
    print(&args, &all, seconds);
    Ok(if all.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print(args: &Args, all: &Count, seconds: f64) {
    let rate = all.bytes as f64 / seconds / 1e6;
    let Count { bytes, timeouts, repeated, failed } = all;
    if args.json {
        let object = serde_json::json!({
            "mb_per_s": rate, "seconds": seconds, "bytes": bytes, "clients": args.clients,
            "timeouts": timeouts, "repeated": repeated, "failed": failed,
        });
        println!("{object}");
    } else {
        println!(
            "{} clients: {rate:.1} MB/s, {bytes} bytes in {seconds:.3} s, \
             {timeouts} timeouts, {repeated} blocks repeated, {failed} failed",
            args.clients
        );
    }
}

fn run(args: &Args, expected: &[u8]) -> Count {
    let mut count = Count::default();
    for _ in 0..args.rounds {
        match fetch(args, expected, &mut count) {
            Ok(()) => count.bytes += expected.len() as u64,
            Err(e) => {
                println!("{e:#}");
                count.failed += 1;
            }
        }
    }
    count
}

/// Fetches once. Lock step or windows by what the server grants.
fn fetch(args: &Args, expected: &[u8], count: &mut Count) -> anyhow::Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).context("binding")?;
    socket.set_read_timeout(Some(Duration::from_secs(1))).context("setting the timeout")?;
    let mut buf = vec![0; 4 + 65536];
    let (len, peer) = ask(args, &socket, &mut buf, count)?;
    socket.connect(peer).context("connecting")?;
    let (block, window) = granted(&buf[..len])?;
    let mut ack = [0, 4, 0, 0];
    socket.send(&ack).context("sending")?;
    let (mut at, mut next, mut fresh) = (0, 1u16, 0);
    loop {
        let len = match socket.recv(&mut buf) {
            Ok(len) => len,
            Err(_) if count.timeouts < 1000 => {
                count.timeouts += 1;
                socket.send(&ack).context("sending")?;
                continue;
            }
            Err(e) => return Err(e).context("receiving"),
        };
        ensure!(len >= 4, "a packet of {len} bytes");
        ensure!(buf[1] == 3, "packet type {} in the middle of a transfer", buf[1]);
        if buf[2..4] != next.to_be_bytes() {
            count.repeated += 1;
            // Only a hole is worth an answer; what comes twice is not (RFC 1123, 4.2.3.1).
            if window > 1 && fresh > 0 {
                socket.send(&ack).context("sending")?;
                fresh = 0;
            }
            continue;
        }
        let data = &buf[4..len];
        ensure!(expected.get(at..at + data.len()) == Some(data), "wrong bytes at {at}");
        at += data.len();
        ack[2..].copy_from_slice(&next.to_be_bytes());
        next = next.wrapping_add(1);
        fresh += 1;
        let last = data.len() < block;
        if last || fresh == window {
            socket.send(&ack).context("sending")?;
            fresh = 0;
        }
        if last {
            ensure!(at == expected.len(), "{at} bytes came, {} expected", expected.len());
            return Ok(());
        }
    }
}

fn ask(
    args: &Args,
    socket: &UdpSocket,
    buf: &mut [u8],
    count: &mut Count,
) -> anyhow::Result<(usize, SocketAddr)> {
    let mut request = format!("\0\x01{}\0octet\0blksize\0{}\0", args.file, args.block);
    if args.window > 1 {
        request += &format!("windowsize\0{}\0", args.window);
    }
    for _ in 0..10 {
        socket.send_to(request.as_bytes(), args.server).context("asking")?;
        match socket.recv_from(buf) {
            Ok(answer) => return Ok(answer),
            Err(_) => count.timeouts += 1,
        }
    }
    bail!("no answer from {}", args.server)
}

/// Block and window size out of the OACK.
fn granted(answer: &[u8]) -> anyhow::Result<(usize, u32)> {
    let text = String::from_utf8_lossy(answer.get(2..).unwrap_or_default()).into_owned();
    ensure!(answer.starts_with(&[0, 6]), "no OACK but {text:?}");
    let words: Vec<_> = text.split('\0').collect();
    let option = |name: &str| {
        let pair = words.chunks_exact(2).find(|pair| pair[0].eq_ignore_ascii_case(name))?;
        pair[1].parse().ok()
    };
    Ok((option("blksize").unwrap_or(512) as usize, option("windowsize").unwrap_or(1)))
}
