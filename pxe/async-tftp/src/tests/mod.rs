//! Upstream's tests, and those of what was corrected. Some run with the real `atftp`.

mod address;
mod external_client;
mod packet;
mod rrq;
