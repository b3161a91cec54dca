//! Where a store is, as people type it: a folder, or `s3://bucket/prefix`.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, ensure};
use images::Store;

use crate::bucket::Bucket;

/// How the name of a bucket begins.
const BUCKET: &str = "s3://";

/// The place of a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A folder of this host.
    Folder(PathBuf),
    /// What is below `prefix`, which may be empty, in a bucket.
    Bucket {
        /// The bucket.
        bucket: String,
        /// The beginning of all its objects' names, without `/` at its ends.
        prefix: String,
    },
}

impl Place {
    /// The place that `typed` names.
    pub fn parse(typed: &OsStr) -> anyhow::Result<Place> {
        let Some(rest) = typed.to_str().and_then(|typed| typed.strip_prefix(BUCKET)) else {
            return Ok(Place::Folder(PathBuf::from(typed)));
        };
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let prefix = prefix.trim_matches('/');
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        let parts =
            || prefix.split('/').all(|part| part.bytes().all(fits) && !part.starts_with('.'));
        ensure!(
            !bucket.is_empty() && bucket.bytes().all(fits) && (prefix.is_empty() || parts()),
            "{} names no store: a folder is accepted, or s3://bucket/prefix of letters, digits, \
             `-`, `_`, `.` and `/`",
            Path::new(typed).display()
        );
        Ok(Place::Bucket { bucket: bucket.to_owned(), prefix: prefix.to_owned() })
    }

    /// The store there, which must be one. A bucket's keys, RAM system and unfinished files are in
    /// a folder below `data`.
    pub fn open(&self, data: &Path) -> anyhow::Result<Store> {
        match self {
            Place::Folder(folder) => Store::open(folder),
            Place::Bucket { bucket, prefix } => on_bucket(bucket, prefix, data),
        }
    }

    /// The same, made when it is not there, with a key to sign.
    pub fn create(&self, data: &Path) -> anyhow::Result<Store> {
        match self {
            Place::Folder(folder) => Store::create(folder),
            Place::Bucket { bucket, prefix } => {
                let store = on_bucket(bucket, prefix, data)?;
                store.secret_key()?;
                Ok(store)
            }
        }
    }
}

fn on_bucket(bucket: &str, prefix: &str, data: &Path) -> anyhow::Result<Store> {
    let folder = data.join("buckets").join(bucket).join(prefix);
    let shelf = Bucket::new(bucket, prefix)?;
    let context = || format!("making {} for what stays on this host", folder.display());
    Store::on(Arc::new(shelf), &folder).with_context(context)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_folder_or_a_bucket() {
        let place = |typed: &str| Place::parse(OsStr::new(typed));
        let bucket = |bucket: &str, prefix: &str| Place::Bucket {
            bucket: bucket.to_owned(),
            prefix: prefix.to_owned(),
        };
        assert_eq!(place("/srv/store").unwrap(), Place::Folder("/srv/store".into()));
        assert_eq!(place("s3:/x").unwrap(), Place::Folder("s3:/x".into()));
        assert_eq!(place("s3://images").unwrap(), bucket("images", ""));
        assert_eq!(place("s3://images/").unwrap(), bucket("images", ""));
        assert_eq!(place("s3://images/rack1/store/").unwrap(), bucket("images", "rack1/store"));
        for wrong in ["s3://", "s3:///x", "s3://a b", "s3://images/../x", "s3://images//x?y"] {
            assert!(
                place(wrong).unwrap_err().to_string().contains("s3://bucket/prefix"),
                "{wrong}"
            );
        }
    }
}
