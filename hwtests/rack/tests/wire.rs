//! Chunks that are corrupted on the way: something between the node and the server flips bits
//! that TCP's checksum does not catch. They are named, never written, and fetched again.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    thread,
};

use anyhow::{Context, Result, ensure};
use rack::{
    Size,
    rack::ADDRESS,
    stage::{self, PATIENCE, Program, Stage, Story},
    tiny::BOOTS,
};

/// Where the server really is; nodes believe that it is at the rack's address.
const BEHIND: Ipv4Addr = Ipv4Addr::LOCALHOST;
const PORT: u16 = 8080;
/// So many answers are corrupted, each this far into it.
const FLIPS: i64 = 2;
const DEPTH: i64 = 50_000;

static PROGRAM: Program = Program {
    options: |mut options| {
        options.listen = BEHIND;
        options
    },
    ..Program::TINY
};

fn main() -> ExitCode {
    stage::run(&PROGRAM, vec![Story { name: "chunks_corrupted_on_the_way", play: corrupted }])
}

fn corrupted(stage: &Stage) -> Result<()> {
    let flips = Arc::new(AtomicI64::new(FLIPS));
    let listener = TcpListener::bind((ADDRESS, PORT)).context("listening between")?;
    let budget = flips.clone();
    thread::spawn(move || {
        for node in listener.incoming().flatten() {
            let budget = budget.clone();
            thread::spawn(move || relay(node, &budget));
        }
    });
    let tiny = stage.tiny("wire", Size::mib(32))?;
    let node = stage.enrolled_for("wire", &tiny, None)?;
    let deployment = stage.deploy(&node, "wire")?;
    stage.done(&deployment, PATIENCE)?;
    ensure!(flips.load(Ordering::SeqCst) <= 0, "nothing was corrupted");
    tiny.is_on(node.disk(0)?)?;
    let lines = node.console().lines(0);
    let named = lines.iter().any(|line| {
        let digest = |word: &str| word.len() == 64 && word.bytes().all(|b| b.is_ascii_hexdigit());
        line.text.contains("fetched again") && line.text.split_whitespace().any(digest)
    });
    ensure!(named, "a chunk that came corrupt is named on the console:\n{}", node.console().tail());
    node.console().wait_for(&format!("{BOOTS} wire"), PATIENCE)?;
    Ok(())
}

/// Copies both ways; while the budget lasts, flips a bit in an answer to a request for a pack.
fn relay(node: TcpStream, budget: &Arc<AtomicI64>) {
    let Ok(server) = TcpStream::connect((BEHIND, PORT)) else { return };
    let (Ok(mut from_node), Ok(mut to_server)) = (node.try_clone(), server.try_clone()) else {
        return;
    };
    let ahead = Arc::new(AtomicI64::new(-1));
    let seen = ahead.clone();
    let asks = thread::spawn(move || {
        let mut bytes = vec![0; 16384];
        while let Ok(length @ 1..) = from_node.read(&mut bytes) {
            if bytes[..length].starts_with(b"GET /v1/packs/") {
                seen.store(DEPTH, Ordering::SeqCst);
            }
            if to_server.write_all(&bytes[..length]).is_err() {
                break;
            }
        }
        let _ = to_server.shutdown(Shutdown::Write);
    });
    answer(server, node, &ahead, budget);
    let _ = asks.join();
}

fn answer(mut server: TcpStream, mut node: TcpStream, ahead: &AtomicI64, budget: &AtomicI64) {
    let mut bytes = vec![0; 16384];
    while let Ok(length @ 1..) = server.read(&mut bytes) {
        let left = ahead.fetch_sub(length as i64, Ordering::SeqCst);
        let reached = (0..length as i64).contains(&left);
        if reached && budget.fetch_sub(1, Ordering::SeqCst) > 0 {
            bytes[left as usize] ^= 0x10;
        }
        if node.write_all(&bytes[..length]).is_err() {
            break;
        }
    }
    let _ = node.shutdown(Shutdown::Both);
    let _ = server.shutdown(Shutdown::Both);
}
