//! Volumes: directories of this machine that a pod's containers see.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Component, Path, PathBuf},
};

use k8s_openapi::api::core::v1::{
    Container, DownwardAPIVolumeFile, HostPathVolumeSource, KeyToPath, Pod, Volume, VolumeProjection,
};

use super::{
    env::EnvError,
    fields::{self, Facts, FieldError},
    sources::{Entries, Sources},
};
use crate::runtime::Mount;

/// A volume cannot be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VolumeError {
    #[error("volume {volume:?}: {what} is not supported")]
    Unsupported { volume: String, what: &'static str },
    #[error("volume {volume:?}")]
    Source {
        volume: String,
        #[source]
        source: EnvError,
    },
    #[error("volume {volume:?}: key {key:?} not found")]
    Key { volume: String, key: String },
    #[error("volume {volume:?}: path {path:?} must be relative and must not contain '..'")]
    Path { volume: String, path: String },
    #[error("volume {volume:?}")]
    Field {
        volume: String,
        #[source]
        source: FieldError,
    },
    #[error("volume {volume:?}: host path {path:?} is not a {wanted}")]
    HostPath { volume: String, path: String, wanted: &'static str },
    #[error("volume {volume:?}: cannot write {path:?}")]
    Io {
        volume: String,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("volume mount {0:?} names no volume")]
    NoVolume(String),
}

/// Where the volumes of a pod are, by name.
pub(crate) type Volumes = BTreeMap<String, PathBuf>;

/// A file of a volume: relative path, content, mode.
type File = (String, Vec<u8>, Option<i32>);

/// Makes all volumes of a pod below `directory`, or brings those that exist up to date.
pub(crate) fn materialise(
    pod: &Pod,
    facts: &Facts,
    sources: &Sources,
    directory: &Path,
) -> Result<Volumes, VolumeError> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.map(|volume| Ok((volume.name.clone(), one(pod, facts, sources, volume, directory)?))).collect()
}

/// The mounts of a container, with its `subPath`s.
pub(crate) fn mounts(container: &Container, volumes: &Volumes) -> Result<Vec<Mount>, VolumeError> {
    let mounts = container.volume_mounts.iter().flatten();
    mounts
        .map(|mount| {
            let source = volumes.get(&mount.name).ok_or_else(|| VolumeError::NoVolume(mount.name.clone()))?;
            if mount.sub_path_expr.as_deref().is_some_and(|expr| !expr.is_empty()) {
                return Err(VolumeError::Unsupported { volume: mount.name.clone(), what: "subPathExpr" });
            }
            let source = match mount.sub_path.as_deref().filter(|path| !path.is_empty()) {
                None => source.clone(),
                Some(path) => {
                    let source = source.join(relative(&mount.name, path)?);
                    if !source.exists() {
                        fs::create_dir_all(&source).map_err(failed(&mount.name, &source))?;
                    }
                    source
                }
            };
            Ok(Mount {
                source,
                target: mount.mount_path.clone().into(),
                read_only: mount.read_only == Some(true),
            })
        })
        .collect()
}

/// Variables that say where volumes are, for containers that see this machine's files: `WEFT_VOLUME_NAME`.
pub(crate) fn variables(volumes: &Volumes) -> Vec<(String, String)> {
    let name = |volume: &str| format!("WEFT_VOLUME_{}", volume.to_uppercase().replace(['-', '.'], "_"));
    volumes.iter().map(|(volume, path)| (name(volume), path.to_string_lossy().into_owned())).collect()
}

fn one(
    pod: &Pod,
    facts: &Facts,
    sources: &Sources,
    volume: &Volume,
    directory: &Path,
) -> Result<PathBuf, VolumeError> {
    let name = &volume.name;
    let path = directory.join(relative(name, name)?);
    if volume.empty_dir.is_some() {
        fs::create_dir_all(&path).map_err(failed(name, &path))?;
        // As in Kubernetes, whatever user the container has may write there.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).map_err(failed(name, &path))?;
        return Ok(path);
    }
    if let Some(source) = &volume.host_path {
        return host_path(name, source);
    }
    let wrong = |source| VolumeError::Source { volume: name.clone(), source };
    let (files, mode) = if let Some(source) = &volume.config_map {
        let entries = sources.config_map(&source.name, source.optional).map_err(wrong)?;
        (selected(name, entries, source.items.as_deref(), source.optional)?, source.default_mode)
    } else if let Some(source) = &volume.secret {
        let secret = source.secret_name.as_deref().unwrap_or("");
        let entries = sources.secret(secret, source.optional).map_err(wrong)?;
        (selected(name, entries, source.items.as_deref(), source.optional)?, source.default_mode)
    } else if let Some(source) = &volume.downward_api {
        (downward(pod, facts, name, source.items.as_deref())?, source.default_mode)
    } else if let Some(source) = &volume.projected {
        let mut files = Vec::new();
        for projection in source.sources.iter().flatten() {
            files.extend(projected(pod, facts, sources, name, projection)?);
        }
        (files, source.default_mode)
    } else {
        return Err(VolumeError::Unsupported { volume: name.clone(), what: "this kind of volume" });
    };
    write_files(name, &path, &files, mode)?;
    Ok(path)
}

fn projected(
    pod: &Pod,
    facts: &Facts,
    sources: &Sources,
    volume: &str,
    projection: &VolumeProjection,
) -> Result<Vec<File>, VolumeError> {
    let wrong = |source| VolumeError::Source { volume: volume.to_owned(), source };
    if let Some(source) = &projection.config_map {
        let entries = sources.config_map(&source.name, source.optional).map_err(wrong)?;
        selected(volume, entries, source.items.as_deref(), source.optional)
    } else if let Some(source) = &projection.secret {
        let entries = sources.secret(&source.name, source.optional).map_err(wrong)?;
        selected(volume, entries, source.items.as_deref(), source.optional)
    } else if let Some(source) = &projection.downward_api {
        downward(pod, facts, volume, source.items.as_deref())
    } else {
        Err(VolumeError::Unsupported { volume: volume.to_owned(), what: "this kind of projection" })
    }
}

fn selected(
    volume: &str,
    entries: Option<&Entries>,
    items: Option<&[KeyToPath]>,
    optional: Option<bool>,
) -> Result<Vec<File>, VolumeError> {
    let Some(entries) = entries else { return Ok(Vec::new()) };
    let Some(items) = items else {
        return Ok(entries.iter().map(|(key, value)| (key.clone(), value.clone(), None)).collect());
    };
    let mut files = Vec::new();
    for item in items {
        match entries.get(&item.key) {
            Some(value) => files.push((item.path.clone(), value.clone(), item.mode)),
            None if optional == Some(true) => {}
            None => return Err(VolumeError::Key { volume: volume.to_owned(), key: item.key.clone() }),
        }
    }
    Ok(files)
}

fn downward(
    pod: &Pod,
    facts: &Facts,
    volume: &str,
    items: Option<&[DownwardAPIVolumeFile]>,
) -> Result<Vec<File>, VolumeError> {
    let wrong = |source| VolumeError::Field { volume: volume.to_owned(), source };
    items
        .into_iter()
        .flatten()
        .map(|item| {
            let value = match (&item.field_ref, &item.resource_field_ref) {
                (Some(reference), _) => fields::field(pod, facts, &reference.field_path).map_err(wrong)?,
                (None, Some(reference)) => fields::resource(pod, facts, None, reference).map_err(wrong)?,
                (None, None) => String::new(),
            };
            Ok((item.path.clone(), value.into_bytes(), item.mode))
        })
        .collect()
}

/// Brings a directory to exactly these files. Each is replaced as a whole, so no reader sees half of one.
fn write_files(volume: &str, directory: &Path, files: &[File], mode: Option<i32>) -> Result<(), VolumeError> {
    fs::create_dir_all(directory).map_err(failed(volume, directory))?;
    let mut wanted = BTreeSet::new();
    for (path, content, own_mode) in files {
        let relative = relative(volume, path)?;
        let target = directory.join(relative);
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent).map_err(failed(volume, parent))?;
        }
        wanted.insert(target.clone());
        if fs::read(&target).is_ok_and(|present| present == *content) {
            continue;
        }
        let temporary = target.with_extension("weft-new");
        fs::write(&temporary, content).map_err(failed(volume, &temporary))?;
        let mode = own_mode.or(mode).and_then(|mode| u32::try_from(mode).ok()).unwrap_or(0o644) & 0o7777;
        fs::set_permissions(&temporary, fs::Permissions::from_mode(mode))
            .map_err(failed(volume, &temporary))?;
        fs::rename(&temporary, &target).map_err(failed(volume, &target))?;
    }
    remove_others(directory, &wanted).map_err(failed(volume, directory))
}

fn remove_others(directory: &Path, wanted: &BTreeSet<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            remove_others(&path, wanted)?;
            // Fails, as it should, if something is left in it.
            let _ = fs::remove_dir(&path);
        } else if !wanted.contains(&path) {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

fn host_path(volume: &str, source: &HostPathVolumeSource) -> Result<PathBuf, VolumeError> {
    let path = PathBuf::from(&source.path);
    let wrong =
        |wanted| VolumeError::HostPath { volume: volume.to_owned(), path: source.path.clone(), wanted };
    if !path.is_absolute() || path.components().any(|part| part == Component::ParentDir) {
        return Err(wrong("plain absolute path"));
    }
    let check = |holds: bool, wanted| if holds { Ok(()) } else { Err(wrong(wanted)) };
    match source.type_.as_deref().unwrap_or("") {
        "" => {}
        "DirectoryOrCreate" => fs::create_dir_all(&path).map_err(failed(volume, &path))?,
        "FileOrCreate" => {
            let file = fs::OpenOptions::new().create(true).append(true).open(&path);
            file.map_err(failed(volume, &path))?;
        }
        "Directory" => check(path.is_dir(), "directory")?,
        "File" => check(path.is_file(), "file")?,
        "Socket" => check(path.exists() && !path.is_dir() && !path.is_file(), "socket")?,
        _ => return Err(VolumeError::Unsupported { volume: volume.to_owned(), what: "this hostPath type" }),
    }
    Ok(path)
}

/// A path below a volume; whatever a pod's author writes, nothing outside is reached.
fn relative<'a>(volume: &str, path: &'a str) -> Result<&'a Path, VolumeError> {
    let plain = Path::new(path);
    let inside = plain.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if path.is_empty() || !inside || path.contains('\0') {
        return Err(VolumeError::Path { volume: volume.to_owned(), path: path.to_owned() });
    }
    Ok(plain)
}

fn failed<'a>(volume: &'a str, path: &'a Path) -> impl FnOnce(io::Error) -> VolumeError + 'a {
    move |source| VolumeError::Io { volume: volume.to_owned(), path: path.to_owned(), source }
}

#[cfg(test)]
mod tests;
