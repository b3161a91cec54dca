//! Where on the provisioner each message goes. Agent and server share these names.

/// A node's iPXE script: `GET /boot/<mac, colons>` (no authentication; see Trust).
pub const BOOT: &str = "/boot";
/// The RAM system's kernel, for the node's firmware to fetch.
pub const KERNEL: &str = "/boot/kernel";
/// The RAM system's initial RAM disk.
pub const RAMDISK: &str = "/boot/ramdisk";
/// `POST` [`crate::Hello`] -> [`crate::Welcome`].
pub const HELLO: &str = "/v1/agent/hello";
/// `POST` [`crate::Progress`] -> 204; bearer: the identity of the welcome.
pub const PROGRESS: &str = "/v1/agent/progress";
/// `POST` [`crate::Report`] -> 204; bearer: the identity of the welcome.
pub const REPORT: &str = "/v1/agent/report";
/// `GET ?generation=<the one that is held, 0 for none>` -> [`crate::NodeConfig`] as soon as there
/// is another one, 204 when there was none for [`crate::config::HELD`]; bearer: the node's own
/// token.
pub const CONFIG: &str = "/v1/agent/config";
/// `POST` [`crate::HostReport`] -> [`crate::Heard`]; bearer: the node's own token.
pub const STATUS: &str = "/v1/agent/status";
/// `GET /images/<name>` -> what the store keeps of a name: `{"manifest": "<blake3>", "created": <seconds>}`. Only
/// says which manifest is meant: whether it may be believed, its signature says.
pub const IMAGES: &str = "/images";
/// `GET /v1/manifests/<blake3>` -> the manifest's bytes, and `.../minisig`, `.../index` under it.
pub const MANIFESTS: &str = "/v1/manifests";
/// `GET /v1/packs/<blake3>`, with ranges.
pub const PACKS: &str = "/v1/packs";
/// `GET /v1/chunks/<blake3>`: one chunk, plain.
pub const CHUNKS: &str = "/v1/chunks";
