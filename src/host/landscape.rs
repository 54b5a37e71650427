//! What a plugin is started from: its manifest and code, its language and kernelspec.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    discover::{Discovery, Environment, Found, LanguageFolder, Languages, Support, discover},
    host::{BuildError, door::Door, keeper::Recipe, pool::Pool, shared::Shared, stats::Meter},
    kernelspec::InterruptMode,
    language::{Interrupt, Shim},
    manifest::{CarrierChoice, Isolation, Limits, Manifest, ManifestError, Sandbox, of_notebook},
    notebook::Notebook,
    plugin::{Carrier, PluginSource, Runtime, check_sandbox, not_enforced},
    rpc::Cell,
};

/// What kernels are started from, as it was found.
pub(super) struct Landscape {
    discovery: Discovery,
    languages: Languages,
    environment: Environment,
    /// By kernelspec: plugins of one language share what is known of it, the text of its shim among it.
    runtimes: HashMap<String, Runtime>,
    /// How long that took.
    elapsed: Duration,
}

impl Landscape {
    pub fn survey(environment: Environment, kernelspecs: &[PathBuf]) -> Self {
        let began = Instant::now();
        let (discovery, languages) = (discover(&environment), Languages::load(&environment, kernelspecs));
        Self { discovery, languages, environment, runtimes: HashMap::new(), elapsed: began.elapsed() }
    }

    pub fn recipe(
        &mut self,
        manifest: &Arc<Manifest>,
        file: &Path,
        shared: &Arc<Shared>,
    ) -> Result<Recipe, BuildError> {
        let runtime = self.runtime_of(manifest)?;
        check_sharing(manifest, &runtime)?;
        let source = read_source(manifest, file)?;
        let meter = Arc::<Meter>::default();
        let pool = Pool::new(&manifest.name, runtime.clone(), source.clone(), manifest.delivery.warm as usize);
        let shared_weakly = Arc::downgrade(shared);
        Ok(Recipe {
            door: Arc::new(Door { shared: shared_weakly.clone(), manifest: manifest.clone(), meter: meter.clone() }),
            manifest: manifest.clone(),
            runtime,
            source,
            graph: shared.graph.clone(),
            meter,
            pool: Arc::new(pool),
            shared: shared_weakly,
            discover: self.elapsed,
        })
    }

    pub fn runtime_of_language(&mut self, language: &str) -> Result<Runtime, BuildError> {
        let found = self.languages.kernelspec_for(&self.discovery, language);
        let found =
            found.map_err(|source| BuildError::NoKernelspec { plugin: String::new(), source: Box::new(source) })?;
        Ok(self
            .runtimes
            .entry(found.kernelspec.name.clone())
            .or_insert_with(|| runtime_for(found, &self.languages, &self.environment))
            .clone())
    }

    fn runtime_of(&mut self, manifest: &Manifest) -> Result<Runtime, BuildError> {
        let plugin = || manifest.name.clone();
        let found = match (manifest.kernelspec(), manifest.language()) {
            (Some(kernelspec), _) => self
                .discovery
                .find(kernelspec)
                .map_err(|source| BuildError::Discover { plugin: plugin(), source: Box::new(source) })?,
            (None, language) => self
                .languages
                .kernelspec_for(&self.discovery, language.unwrap_or_default())
                .map_err(|source| BuildError::NoKernelspec { plugin: plugin(), source: Box::new(source) })?,
        };
        if let Some(program) = found.missing_program.clone() {
            let (kernelspec, file) = (found.kernelspec.name.clone(), found.dir.join("kernel.json"));
            return Err(BuildError::NoProgram { plugin: plugin(), kernelspec, program, file });
        }
        let runtime = self.runtimes.entry(found.kernelspec.name.clone());
        Ok(runtime.or_insert_with(|| runtime_for(found, &self.languages, &self.environment)).clone())
    }
}

/// How kernels are started that are for no plugin yet.
pub(super) fn blank() -> PluginSource {
    PluginSource {
        name: String::new(),
        version: String::new(),
        path: None,
        cells: Vec::new(),
        config: serde_json::Map::new(),
        env: Vec::new(),
        sandbox: Sandbox::default(),
        limits: Limits::default(),
        instance: None,
        shared: false,
        carrier: None,
        activation: None,
        template: None,
        live: None,
    }
}

/// Read a manifest, given itself, or a notebook that stands alone.
///
/// # Errors
///
/// - [`BuildError::Read`], [`BuildError::Notebook`], [`BuildError::Manifest`] by what is wrong with the file.
pub fn manifest_at(file: &Path) -> Result<Manifest, BuildError> {
    let mut text = read(file)?;
    if file.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("ipynb")) {
        text = of_notebook(&Notebook::parse(&text, file)?, file);
    }
    Ok(Manifest::parse(&text, file)?)
}

/// Read a manifest, given its folder or itself, or a notebook that stands alone.
pub(super) fn read_manifest(path: &Path) -> Result<(Manifest, PathBuf), BuildError> {
    let file = if path.is_dir() { path.join("plugin.toml") } else { path.to_owned() };
    let file = std::path::absolute(&file).unwrap_or(file);
    let manifest = manifest_at(&file)?;
    check_sandbox(&manifest)?;
    for problem in not_enforced(&manifest) {
        tracing::warn!(plugin = manifest.name, field = problem.field, "{}", problem.message);
    }
    Ok((manifest, file))
}

/// Can plugins of this language share a kernel, if this one wants to?
fn check_sharing(manifest: &Manifest, runtime: &Runtime) -> Result<(), ManifestError> {
    if manifest.isolation != Isolation::Shared {
        return Ok(());
    }
    let name = runtime.language.as_ref().map_or(&*runtime.kernelspec, |language| &*language.display_name);
    let why = match runtime.language.as_ref().and_then(|language| language.shim.as_ref()) {
        _ if manifest.template().is_some() => "a plugin with a [template] has no namespace of its own".to_owned(),
        None => format!("{name} has no shim that would keep plugins apart"),
        Some(Shim { shared: true, .. }) => return Ok(()),
        Some(Shim { alone, .. }) => {
            let alone = alone.as_deref().unwrap_or("its shim does not keep plugins apart");
            format!("{name} cannot: {alone}")
        }
    };
    let hint = Some("use `isolation = \"own\"`".to_owned());
    let problem = manifest.problem("plugin.isolation", format!("`isolation = \"shared\"`: {why}"), hint);
    Err(ManifestError { path: manifest.path.clone(), problems: vec![problem] })
}

pub(super) fn read_source(manifest: &Manifest, file: &Path) -> Result<PluginSource, BuildError> {
    let path = file.parent().unwrap_or(Path::new("")).join(&manifest.entry);
    let text = read(&path)?;
    let name = manifest.entry.to_string_lossy().into_owned();
    let cells = if manifest.is_notebook() {
        let notebook = Notebook::parse(&text, &manifest.entry)?;
        notebook.entry_cells().map(|cell| Cell { name: cell.name.clone(), source: cell.source.clone() }).collect()
    } else {
        vec![Cell { name, source: text }]
    };
    Ok(PluginSource {
        name: manifest.name.clone(),
        version: manifest.version.clone(),
        path: Some(path),
        cells,
        config: manifest.config.clone(),
        env: manifest.env.clone(),
        sandbox: manifest.sandbox,
        limits: manifest.limits.clone(),
        carrier: match manifest.carrier {
            CarrierChoice::Auto => None,
            CarrierChoice::Jupyter => Some(Carrier::Jupyter),
            CarrierChoice::Pipe => Some(Carrier::Pipe),
        },
        activation: manifest.activation,
        template: manifest.template().cloned(),
        instance: None,
        shared: manifest.isolation == Isolation::Shared,
        live: None,
    })
}

fn read(path: &Path) -> Result<String, BuildError> {
    std::fs::read_to_string(path).map_err(|source| BuildError::Read { path: path.to_owned(), source })
}

/// What is needed to run plugins in a kernelspec that was found.
pub fn runtime_for(found: &Found, languages: &Languages, environment: &Environment) -> Runtime {
    let text = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
    // A kernel that the shim was not written for may behave in other ways than its language's folder says.
    let fits = |folder: &LanguageFolder, support| support == Support::Full || folder.shim_text().is_none();
    let folder = languages.for_kernelspec(&found.kernelspec);
    let folder = folder.filter(|(folder, support)| fits(folder, *support)).map(|(folder, _)| folder);
    Runtime {
        kernelspec: found.kernelspec.name.clone(),
        argv: found.argv(Path::new("{connection_file}"), environment).into_iter().map(text).collect(),
        env: found.env(environment).into_iter().map(|(name, value)| (name, text(value))).collect(),
        interrupt: match found.kernelspec.interrupt_mode {
            InterruptMode::Signal => Interrupt::Signal,
            InterruptMode::Message => Interrupt::Message,
        },
        language: folder.map(|folder| Arc::new(folder.language.clone())),
        shim: folder.and_then(|folder| folder.shim_text()).map(Into::into),
    }
}
