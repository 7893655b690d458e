//! Which kernel modules an image needs, in an order in which they can be loaded.

use super::elf::{ModuleNeeds, module_needs};
use super::error::ImageError;
use super::tree::{Node, Tree};

/// Where a kernel's modules are in an image.
fn directory(release: &str) -> String {
    format!("usr/lib/modules/{release}")
}

/// A module's name: file names may have hyphens where names have underscores.
fn name_of(path: &str) -> Option<String> {
    let file = path.rsplit('/').next()?.strip_suffix(".ko")?;
    Some(file.replace('-', "_"))
}

/// Copies the modules called `names`, and those that they need, from the kernel package's files to
/// the image's, and returns their paths in an order in which each comes after what it needs. What
/// is built into the kernel needs no module.
pub(super) fn copy(
    kernel: &Tree,
    image: &mut Tree,
    release: &str,
    names: &[&str],
    packages: &str,
) -> Result<Vec<String>, ImageError> {
    let dir = directory(release);
    let missing = |path: String| ImageError::File {
        path,
        packages: packages.to_owned(),
    };
    let list = format!("{dir}/modules.builtin");
    let Some(Node::File { bytes, .. }) = kernel.get(&list) else {
        return Err(missing(list));
    };
    let built_in: Vec<String> = String::from_utf8_lossy(bytes)
        .lines()
        .filter_map(name_of)
        .collect();
    let find = |name: &str| {
        kernel
            .files()
            .find(|(path, _)| path.starts_with(&dir) && name_of(path).as_deref() == Some(name))
    };

    // Depth first: a module is listed once all that it needs is.
    enum Task {
        Visit { name: String, is_optional: bool },
        List(String),
    }
    let visit = |name: String, is_optional| Task::Visit { name, is_optional };
    let mut seen = built_in;
    let mut order = Vec::new();
    let mut tasks: Vec<Task> = names
        .iter()
        .rev()
        .map(|name| visit((*name).to_owned(), false))
        .collect();
    while let Some(task) = tasks.pop() {
        let (name, is_optional) = match task {
            Task::List(path) => {
                order.push(path);
                continue;
            }
            Task::Visit { name, is_optional } => (name.replace('-', "_"), is_optional),
        };
        if seen.contains(&name) {
            continue;
        }
        let Some((path, bytes)) = find(&name) else {
            if is_optional {
                continue;
            }
            return Err(missing(format!("{dir}/…/{name}.ko")));
        };
        let ModuleNeeds { depends, before } =
            module_needs(bytes).map_err(|error| ImageError::Elf {
                path: path.to_owned(),
                why: error.to_string(),
            })?;
        image.file(path, bytes, false);
        seen.push(name);
        tasks.push(Task::List(path.to_owned()));
        tasks.extend(before.into_iter().rev().map(|name| visit(name, true)));
        tasks.extend(depends.into_iter().rev().map(|name| visit(name, false)));
    }
    Ok(order)
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::object_with_section;
    use super::*;

    fn kernel(modules: &[(&str, &str)]) -> Tree {
        let mut tree = Tree::with_merged_usr();
        let dir = "lib/modules/6.1";
        let list = "kernel/fs/ext4/ext4.ko\nkernel/lib/crc-16.ko\n";
        tree.file(&format!("{dir}/modules.builtin"), list, false);
        for (path, info) in modules {
            let module = object_with_section(b".modinfo", info.as_bytes());
            tree.file(&format!("{dir}/kernel/{path}.ko"), module, false);
        }
        tree
    }

    fn order(modules: &[(&str, &str)], names: &[&str]) -> Result<Vec<String>, String> {
        let mut image = Tree::with_merged_usr();
        let kernel = kernel(modules);
        let order = copy(&kernel, &mut image, "6.1", names, "the kernel's")
            .map_err(|error| error.to_string())?;
        assert!(order.iter().all(|path| image.get(path) == kernel.get(path)));
        Ok(order.iter().filter_map(|path| name_of(path)).collect())
    }

    #[test]
    fn each_comes_once_and_after_what_it_needs() {
        let modules = [
            ("drivers/virtio/virtio", "depends=virtio_ring"),
            ("drivers/virtio/virtio_ring", "depends="),
            ("net/virtio_net", "depends=virtio_ring,virtio,net_failover"),
            ("net/net_failover", "depends=failover"),
            ("net/failover", "license=GPL"),
            (
                "hw/virtio-rng",
                "depends=virtio,crc_16\0softdep=pre: absent ext4 failover",
            ),
        ];
        let found = order(&modules, &["virtio_net", "virtio_rng", "ext4", "virtio"]);
        let expected = [
            "virtio_ring",
            "virtio",
            "failover",
            "net_failover",
            "virtio_net",
            "virtio_rng",
        ];
        assert_eq!(found.expect("an order"), expected);
    }

    #[test]
    fn modules_that_need_each_other_end_all_the_same() {
        let modules = [("a", "depends=b"), ("b", "depends=a")];
        assert_eq!(order(&modules, &["a"]).expect("an order"), ["b", "a"]);
    }

    #[test]
    fn a_missing_module_is_named() {
        let error = order(&[("a", "depends=gone")], &["a"]).expect_err("none");
        assert!(error.contains("gone.ko"), "{error}");
        assert!(order(&[], &["absent"]).is_err());
    }
}
