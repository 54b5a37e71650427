//! Puts the language folders of `kernelspecs/` into the binary.
//!
//! A macro could embed them too, but Cargo would not notice a new folder, and adding a language is adding a folder.

use std::{
    env,
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
};

fn main() -> io::Result<()> {
    println!("cargo:rerun-if-changed=kernelspecs");
    println!("cargo:rerun-if-changed=build.rs");
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").ok_or(io::ErrorKind::NotFound)?).join("kernelspecs");
    let mut source = String::from("&[");
    for folder in children(&root)?.into_iter().filter(|path| path.is_dir()) {
        let _ = write!(source, "({:?}, &[", name_of(&folder));
        let mut files = Vec::new();
        collect(&folder, "", &mut files)?;
        for (name, path) in files {
            let _ = write!(source, "({name:?}, include_bytes!({path:?})), ");
        }
        source.push_str("]), ");
    }
    source.push(']');
    let out = env::var_os("OUT_DIR").ok_or(io::ErrorKind::NotFound)?;
    fs::write(Path::new(&out).join("kernelspecs.rs"), source)
}

/// What is in `dir`, sorted, without hidden files and what Python leaves behind. A missing folder is an empty one.
fn children(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut children = entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    children.retain(|path| !name_of(path).starts_with('.') && name_of(path) != "__pycache__");
    children.sort();
    Ok(children)
}

fn collect(dir: &Path, prefix: &str, files: &mut Vec<(String, PathBuf)>) -> io::Result<()> {
    for path in children(dir)? {
        let name = format!("{prefix}{}", name_of(&path));
        if path.is_dir() {
            collect(&path, &format!("{name}/"), files)?;
        } else {
            files.push((name, path));
        }
    }
    Ok(())
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
