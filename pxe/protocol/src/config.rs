//! What a node should be, on its way to it.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use xen_config::Desired;

/// How long a question for a newer state is held before the answer is that there is none. The
/// client's patience must be longer.
pub const HELD: Duration = Duration::from_secs(50);

/// The answer to a question for another state than the one that is held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeConfig {
    /// Which one it is, from 1. It grows with every change; yet what the provisioner says counts
    /// also when it is smaller than before, because its database may be one that was put back.
    pub generation: u64,
    /// What the node should be; `None` once nobody wants anything of it any more: what stands is
    /// left as it is.
    pub desired: Option<Desired>,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, proptest};

    use super::*;

    proptest! {
        #[test]
        fn json_and_back(generation in any::<u64>(), cpus in 1..512_u32, wanted in any::<bool>()) {
            let text = format!("[service]\ncpus = {cpus}\n[[guest]]\nname = \"a\"\n\
                memory = \"1GiB\"\nboot.loader = \"pygrub\"\n");
            let desired = wanted.then(|| Desired::from_toml(&text).unwrap());
            let config = NodeConfig { generation, desired };
            let json = serde_json::to_string(&config).unwrap();
            assert_eq!(serde_json::from_str::<NodeConfig>(&json).unwrap(), config);
        }
    }
}
