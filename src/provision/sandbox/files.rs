//! Which files a read-only kernel may read, and which it may write.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use landlock::{ABI, Access, AccessFs, BitFlags, make_bitflags};

use crate::provision::{Folder, sandbox::Needs};

/// Devices that keep nothing and show nothing to anybody.
const DEVICES: [&str; 3] = ["/dev/null", "/dev/zero", "/dev/full"];
/// Those of kernels that run their interpreter in a terminal. All terminals of the user are among them.
const TERMINALS: [&str; 3] = ["/dev/tty", "/dev/ptmx", "/dev/pts"];

/// Paths and what may be done beneath each.
pub(super) fn rules(needs: &Needs<'_>) -> Vec<(PathBuf, BitFlags<AccessFs>)> {
    // Anything may be listed, and all be read but the folders of other kernels: with the key in there, a plugin could
    // have an unrestricted kernel do what it may not do itself.
    let read = make_bitflags!(AccessFs::{ReadFile | Execute});
    let mut rules = vec![(PathBuf::from("/"), AccessFs::ReadDir.into())];
    rules.extend(all_but_private(needs.bases).into_iter().map(|path| (path, read)));
    let device = make_bitflags!(AccessFs::{ReadFile | WriteFile | Truncate | IoctlDev});
    let terminals = TERMINALS.into_iter().filter(|_| needs.terminal);
    rules.extend(DEVICES.into_iter().chain(terminals).map(|path| (PathBuf::from(path), device)));
    rules.extend(needs.shared.map(|folder| (folder.to_path_buf(), read)));
    let everything = AccessFs::from_all(ABI::V3) & !make_bitflags!(AccessFs::{MakeChar | MakeBlock});
    rules.extend(needs.own.iter().map(|folder| (folder.to_path_buf(), everything)));
    rules
}

/// Everything there is but kernels' folders, in as few paths as possible: what lies beside the bases and their
/// ancestors, and what else is in them.
fn all_but_private(bases: &[PathBuf]) -> Vec<PathBuf> {
    let bases: Vec<PathBuf> = bases.iter().map(|base| base.canonicalize().unwrap_or_else(|_| base.clone())).collect();
    let around: BTreeSet<&Path> = bases.iter().flat_map(|base| base.ancestors()).collect();
    let mut paths = Vec::new();
    for dir in around {
        let is_base = bases.iter().any(|base| base == dir);
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let is_private = is_base && entry.file_name().as_encoded_bytes().starts_with(Folder::PREFIX.as_bytes());
            // A link may lead to a base.
            let Ok(real) = entry.path().canonicalize() else { continue };
            if !is_private && !bases.iter().any(|base| base.starts_with(&real)) {
                paths.push(real);
            }
        }
    }
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_is_named_but_folders_of_kernels() {
        let dir = tempfile::tempdir().expect("a folder");
        let root = dir.path().canonicalize().expect("resolves");
        for folder in ["a/b/kernelbridge-x", "a/b/other", "a/c", "d/kernelbridge-y", "d/e"] {
            fs::create_dir_all(root.join(folder)).expect("a folder");
        }
        fs::write(root.join("a/file"), "").expect("written");
        std::os::unix::fs::symlink(root.join("a"), root.join("link")).expect("a link");
        let paths = all_but_private(&[root.join("a/b"), root.join("d")]);
        let inside: BTreeSet<_> = paths.iter().filter_map(|path| path.strip_prefix(&root).ok()).collect();
        let expected = ["a/b/other", "a/c", "a/file", "d/e"].map(Path::new);
        assert_eq!(inside, BTreeSet::from(expected));
        // Beside the ancestors, not above.
        assert!(paths.iter().all(|path| !root.starts_with(path)), "{paths:?}");
        assert!(paths.contains(&Path::new("/usr").canonicalize().expect("resolves")));
    }
}
