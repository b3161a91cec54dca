//! DHCP's leases: all read at start, saved by the batch.

use std::{collections::HashMap, net::Ipv4Addr};

use sqlx::{AssertSqlSafe, Row as _, any::AnyRow};

use super::{Result, Store, damaged};
use crate::lease::Lease;

/// Rows of one statement; both databases bind far more than five times as many values.
const BATCH: usize = 1000;

impl Store {
    /// Every lease, also those that have ended.
    pub async fn load_leases(&self) -> Result<Vec<Lease>> {
        let query = sqlx::query("SELECT ip, mac, client_id, hostname, ends FROM leases");
        query.fetch_all(&self.pool).await?.iter().map(read).collect()
    }

    /// Saves `leases`, replacing those of the same addresses, and forgets `expired`: one
    /// transaction, on the disk when this returns.
    pub async fn save_leases(&self, leases: &[Lease], expired: &[Ipv4Addr]) -> Result<()> {
        // One statement may not touch a row twice: of several leases of an address the last counts.
        let last: HashMap<Ipv4Addr, &Lease> =
            leases.iter().map(|lease| (lease.ip, lease)).collect();
        let last: Vec<&Lease> = last.into_values().collect();
        let mut change = self.change().await?;
        for batch in expired.chunks(BATCH) {
            let sql = format!("DELETE FROM leases WHERE ip IN ({})", places(batch.len(), 1));
            let mut query = sqlx::query(AssertSqlSafe(sql)).persistent(false);
            for ip in batch {
                query = query.bind(ip.to_string());
            }
            query.execute(&mut *change.tx).await?;
        }
        for batch in last.chunks(BATCH) {
            let sql = format!(
                "INSERT INTO leases (ip, mac, client_id, hostname, ends) VALUES {} \
                 ON CONFLICT (ip) DO UPDATE SET mac = excluded.mac, \
                 client_id = excluded.client_id, hostname = excluded.hostname, \
                 ends = excluded.ends",
                places(batch.len(), 5)
            );
            let mut query = sqlx::query(AssertSqlSafe(sql)).persistent(false);
            for lease in batch {
                query = query
                    .bind(lease.ip.to_string())
                    .bind(lease.mac.to_string())
                    .bind(lease.client_id.as_deref())
                    .bind(lease.hostname.as_deref())
                    .bind(lease.until);
            }
            query.execute(&mut *change.tx).await?;
        }
        change.commit().await?;
        Ok(())
    }
}

/// `rows` groups of `columns` placeholders, numbered through: `($1, $2), ($3, $4)`.
fn places(rows: usize, columns: usize) -> String {
    let row = |row: usize| {
        let names = (1..=columns).map(|column| format!("${}", row * columns + column));
        format!("({})", names.collect::<Vec<_>>().join(", "))
    };
    (0..rows).map(row).collect::<Vec<_>>().join(", ")
}

fn read(row: &AnyRow) -> Result<Lease> {
    let ip: String = row.try_get("ip")?;
    let mac: String = row.try_get("mac")?;
    let what = || format!("the lease of {ip}");
    Ok(Lease {
        mac: mac.parse().map_err(|error: crate::mac::NotAMac| damaged(what(), error))?,
        client_id: row.try_get("client_id")?,
        hostname: row.try_get("hostname")?,
        until: row.try_get("ends")?,
        ip: ip.parse().map_err(|error: std::net::AddrParseError| damaged(what(), error))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{mac::Mac, store::sqlite_url};

    fn lease(last: u8, mac: u8, until: i64) -> Lease {
        let ip = Ipv4Addr::new(10, 0, 0, last);
        Lease { ip, mac: Mac([2, 0, 0, 0, 0, mac]), client_id: None, hostname: None, until }
    }

    #[tokio::test]
    async fn leases_outlive_the_process() {
        let folder = tempfile::tempdir().unwrap();
        let url = sqlite_url(&folder.path().join("a b%?#.db"));
        let store = Store::open(&url).await.unwrap();
        let twice = [lease(1, 1, 10), lease(2, 2, 20), lease(1, 3, 30)];
        store.save_leases(&twice, &[]).await.unwrap();
        store.save_leases(&[lease(3, 3, 40)], &[Ipv4Addr::new(10, 0, 0, 2)]).await.unwrap();
        drop(store);
        let store = Store::open(&url).await.unwrap();
        let mut leases = store.load_leases().await.unwrap();
        leases.sort_by_key(|lease| lease.ip);
        assert_eq!(leases, [lease(1, 3, 30), lease(3, 3, 40)]);
    }

    #[tokio::test]
    async fn a_large_batch_is_one_transaction() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&sqlite_url(&folder.path().join("state.db"))).await.unwrap();
        let address = |n: u32| Ipv4Addr::from(0x0a00_0000 + n);
        let many = |n: u32| Lease { ip: address(n), ..lease(0, 1, i64::from(n)) };
        let leases: Vec<Lease> = (0..5000).map(many).collect();
        store.save_leases(&leases, &[]).await.unwrap();
        let gone: Vec<Ipv4Addr> = (0..2500).map(address).collect();
        store.save_leases(&[], &gone).await.unwrap();
        assert_eq!(store.load_leases().await.unwrap().len(), 2500);
    }
}
