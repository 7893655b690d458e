//! An empty ext4 disk, the same bytes wherever it is made: nodes compare their disks before they
//! pair.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::error::ImageError;
use super::job::Job;

/// Features are named, not taken from the host's configuration. Without `orphan_file` and
/// `metadata_csum_seed`, which kernels before 6.1 lack.
const FEATURES: &str = "none,has_journal,ext_attr,dir_index,filetype,extent,64bit,flex_bg,\
                        sparse_super,large_file,huge_file,dir_nlink,extra_isize,metadata_csum";

/// The file system's time of creation: any, so long as it is the same.
const CREATED_S: &str = "1700000000";

/// The size of the journal in MiB, mke2fs's least for blocks of 4 KiB.
const JOURNAL_MIB: u32 = 4;

/// How a disk is made.
#[derive(Clone, Copy, Debug)]
pub(super) struct DiskRecipe {
    pub(super) label: &'static str,
    pub(super) uuid: &'static str,
    pub(super) hash_seed: &'static str,
    /// The size in MiB. What was never written takes no room on the host.
    pub(super) mib: u32,
}

/// Makes the disk `file`.
pub(super) fn make(recipe: DiskRecipe, file: &Path, job: &mut Job<'_>) -> Result<(), ImageError> {
    let config = file.with_extension("conf");
    let text = "[fs_types]\next4 = {\n}\nsmall = {\n}\n";
    fs::write(&config, text).map_err(ImageError::io("writing", &config))?;
    // Not in every user's PATH.
    let program = ["/sbin/mke2fs", "/usr/sbin/mke2fs"]
        .into_iter()
        .find(|path| Path::new(path).exists())
        .unwrap_or("mke2fs");
    let mut command = Command::new(program);
    command
        .env("MKE2FS_CONFIG", &config)
        .env("E2FSPROGS_FAKE_TIME", CREATED_S)
        .env("SOURCE_DATE_EPOCH", CREATED_S)
        .args([
            "-q", "-F", "-t", "ext4", "-b", "4096", "-I", "256", "-i", "16384", "-m", "0",
        ])
        .args(["-L", recipe.label, "-U", recipe.uuid, "-O", FEATURES])
        .args(["-J", &format!("size={JOURNAL_MIB}"), "-E"])
        .arg(format!(
            "hash_seed={},lazy_itable_init=0,lazy_journal_init=0,root_owner=0:0,nodiscard",
            recipe.hash_seed
        ))
        .arg(file)
        .arg(format!("{}M", recipe.mib));
    job.run(&mut command, "e2fsprogs")?;
    fs::remove_file(&config).map_err(ImageError::io("removing", &config))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;

    #[test]
    fn two_disks_of_one_recipe_are_equal_and_sparse() {
        use std::os::unix::fs::MetadataExt;
        let recipe = DiskRecipe {
            label: "test",
            uuid: "00000000-0000-0000-0000-000000000001",
            hash_seed: "00000000-0000-0000-0000-000000000002",
            mib: 32,
        };
        let dir = tempfile::tempdir().expect("a directory");
        let make = |name: &str| {
            let path = dir.path().join(name);
            let interrupted = AtomicBool::new(false);
            let mut job = Job {
                progress: &mut |_| {},
                interrupted: &interrupted,
            };
            match super::make(recipe, &path, &mut job) {
                Err(error @ ImageError::NoProgram { .. }) => {
                    eprintln!("SKIPPED: {error}");
                    None
                }
                made => {
                    made.expect("a disk");
                    Some(path)
                }
            }
        };
        let (Some(first), Some(second)) = (make("a.img"), make("b.img")) else {
            return;
        };
        let bytes = fs::read(&first).expect("readable");
        assert_eq!(bytes.len(), 32 << 20);
        assert_eq!(bytes[0x438..0x43A], [0x53, 0xEF], "the magic of ext4");
        assert!(bytes == fs::read(&second).expect("readable"));
        let blocks = fs::metadata(&first).expect("there").blocks();
        assert!(blocks * 512 < 16 << 20, "{blocks} blocks are not sparse");
        assert_eq!(fs::read_dir(dir.path()).expect("there").count(), 2);
    }
}
