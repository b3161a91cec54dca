//! The listening socket: who gets a transfer, and who is refused.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr, UdpSocket as StdSocket},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    net::UdpSocket,
    task::{AbortHandle, Id, JoinSet},
};
use tracing::debug;

use super::{
    Handler,
    handler::Outcome,
    options::Limits,
    session::{Place, Session},
    socket::{self, Request},
};
use crate::{
    error::{Error, Result},
    packet::{self, Mode, Packet, RwReq},
};

/// A request is at most a name, a mode and some options; RFC 2347 allows 512 bytes.
const LONGEST_REQUEST: usize = 1500;

/// TFTP server.
pub struct TftpServer<H: Handler> {
    socket: UdpSocket,
    /// Refusals leave from one port of their own: a transfer identifier like any other, and no
    /// socket has to be made for each of them.
    refusals: Arc<UdpSocket>,
    local: IpAddr,
    handler: Arc<H>,
    limits: Limits,
    transfers: JoinSet<()>,
    running: Arc<AtomicUsize>,
    /// By client address and port, what it has asked for lately, the newest last.
    by_peer: HashMap<SocketAddr, Vec<Transfer>>,
    peer_of: HashMap<Id, SocketAddr>,
    by_client: HashMap<IpAddr, usize>,
}

/// A transfer as the listener knows it.
struct Transfer {
    task: AbortHandle,
    superseded: Arc<AtomicBool>,
}

impl<H: Handler> TftpServer<H> {
    pub(crate) fn new(socket: StdSocket, handler: H, limits: Limits) -> Result<Self> {
        let local = socket.local_addr()?.ip();
        let refusals = StdSocket::bind((local, 0))?;
        refusals.set_nonblocking(true)?;
        Ok(TftpServer {
            socket: socket::listen(socket)?,
            refusals: Arc::new(UdpSocket::from_std(refusals)?),
            local,
            handler: Arc::new(handler),
            limits,
            transfers: JoinSet::new(),
            running: Arc::new(AtomicUsize::new(0)),
            by_peer: HashMap::new(),
            peer_of: HashMap::new(),
            by_client: HashMap::new(),
        })
    }

    /// Returns the listening socket's address.
    pub fn listen_addr(&self) -> Result<SocketAddr> {
        Ok(self.socket.local_addr()?)
    }

    /// Serves for ever. Dropping the future ends all transfers.
    pub async fn serve(mut self) -> Result<()> {
        let mut buf = [0; LONGEST_REQUEST];
        loop {
            tokio::select! {
                biased;
                Some(ended) = self.transfers.join_next_with_id() => {
                    self.forget(ended.map_or_else(|e| e.id(), |(id, ())| id));
                }
                request = socket::request(&self.socket, &mut buf) => match request {
                    Ok(request) => self.hear(&request, &buf[..request.len]).await,
                    Err(e) => {
                        debug!("receiving a request: {e}");
                        // An interface that is down fails at once, and again at once.
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                },
            }
        }
    }

    async fn hear(&mut self, request: &Request, data: &[u8]) {
        let peer = request.peer;
        let local = request.to.unwrap_or(self.local);
        let req = match Packet::decode(data) {
            Ok(Packet::Rrq(req)) => req,
            Ok(Packet::Wrq(_)) => {
                let told = packet::Error::Refused("files are only given, none are taken".into());
                return refuse(&self.refusals, local, peer, told);
            }
            // Neither worth an answer, nor is it known what would understand one.
            Ok(_) | Err(_) => return,
        };
        if req.mode != Mode::Octet {
            let told = format!("mode {} asked, octet (binary) is given", req.mode.to_str());
            return refuse(&self.refusals, local, peer, packet::Error::Refused(told));
        }
        self.supersede(peer);
        if self.room_for(peer).is_err() {
            // The last word of some transfers may wait behind this request: hear it first.
            tokio::task::yield_now().await;
            while let Some(ended) = self.transfers.try_join_next_with_id() {
                self.forget(ended.map_or_else(|e| e.id(), |(id, ())| id));
            }
        }
        match self.room_for(peer) {
            Ok(()) => self.start(peer, local, req),
            Err(told) => refuse(&self.refusals, local, peer, packet::Error::Msg(told)),
        }
    }

    /// A client that asks again from the same port has either forgotten the first transfer, or
    /// has not heard its answer yet, and the two cross. So the new request is honoured at once,
    /// and the transfer before it stays to answer, silent by itself. One older still ends.
    fn supersede(&mut self, peer: SocketAddr) {
        let Some(known) = self.by_peer.get(&peer) else { return };
        if let Some((last, older)) = known.split_last() {
            last.superseded.store(true, Ordering::Relaxed);
            older.iter().for_each(|transfer| transfer.task.abort());
        }
    }

    fn room_for(&self, peer: SocketAddr) -> Result<(), String> {
        let Limits { transfers, per_client, .. } = self.limits;
        let known = self.by_peer.get(&peer).map_or(0, Vec::len);
        if self.transfers.len() >= transfers {
            return Err(format!("busy: {transfers} transfers at once, ask again later"));
        }
        // One that aborted its transfer and asks again must not find itself in its own way,
        // but may not pile them up from one port either.
        if self.by_client.get(&peer.ip()).copied().unwrap_or(0) >= per_client || known >= 4 {
            return Err(format!("busy: {per_client} transfers for one client, ask again later"));
        }
        Ok(())
    }

    fn start(&mut self, peer: SocketAddr, local: IpAddr, req: RwReq) {
        let superseded = Arc::new(AtomicBool::new(false));
        let handler = Arc::clone(&self.handler);
        let limits = self.limits.clone();
        let refusals = Arc::clone(&self.refusals);
        let place = Place::new(Arc::clone(&superseded), &self.running);
        let task = self.transfers.spawn(async move {
            let ended = transfer(&*handler, peer, local, &req, &limits, place).await;
            let outcome = ended.unwrap_or_else(|e| {
                debug!("{peer} asked for {:?}: {e}", req.filename);
                refuse(&refusals, local, peer, e.into());
                Outcome::Refused
            });
            handler.ended(&peer, Path::new(&req.filename), outcome);
        });
        self.peer_of.insert(task.id(), peer);
        self.by_peer.entry(peer).or_default().push(Transfer { task, superseded });
        *self.by_client.entry(peer.ip()).or_default() += 1;
    }

    fn forget(&mut self, id: Id) {
        let Some(peer) = self.peer_of.remove(&id) else { return };
        if let Some(known) = self.by_peer.get_mut(&peer) {
            known.retain(|transfer| transfer.task.id() != id);
            if known.is_empty() {
                self.by_peer.remove(&peer);
            }
        }
        if let Some(count) = self.by_client.get_mut(&peer.ip()) {
            *count -= 1;
            if *count == 0 {
                self.by_client.remove(&peer.ip());
            }
        }
    }
}

async fn transfer<H: Handler>(
    handler: &H,
    peer: SocketAddr,
    local: IpAddr,
    req: &RwReq,
    limits: &Limits,
    place: Place,
) -> Result<Outcome> {
    let opened = handler.read_req_open(&peer, Path::new(&req.filename)).await;
    let (reader, size) = opened.map_err(Error::Packet)?;
    let agreed = limits.agree(req, size);
    Session::new(local, peer, reader, agreed, limits.retries, place)?.run().await
}

/// Tells `peer`, once: errors are not repeated, the client asks again.
fn refuse(socket: &UdpSocket, local: IpAddr, peer: SocketAddr, told: packet::Error) {
    if let Err(e) = socket::send_from(socket, local, peer, &Packet::Error(told).to_bytes()) {
        debug!("refusing {peer}: {e}");
    }
}
