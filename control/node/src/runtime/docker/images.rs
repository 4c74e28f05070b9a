//! Images: those that pods name, and the one that is made of our own binaries.
//!
//! Our image holds the `weft` binary (and `weft-proxy`, if it is beside it) with the shared libraries that this process
//! has loaded, so nothing is pulled and nothing needs to be linked in a special way. It is tagged with a hash of its
//! content and made again only when that changes.

use std::{
    collections::BTreeSet,
    fs::File,
    hash::Hasher as _,
    io::{self, Read as _, Write},
    path::{Path, PathBuf},
    time::Instant,
};

use bollard::{
    Docker, body_try_stream,
    errors::Error,
    query_parameters::{CreateImageOptionsBuilder, TagImageOptionsBuilder},
};
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::engine;
use crate::runtime::{Image, ImageError, ImageOrigin, OwnImage, PullPolicy, RuntimeError};

/// Our image in the Engine.
#[derive(Debug, Clone)]
pub(super) struct OwnImages {
    /// Repository and tag.
    reference: String,
    /// Whether it holds the slim proxy.
    has_proxy: bool,
}

const REPOSITORY: &str = "weft.dev/weft";
/// What users call it, in manifests.
const NAMES: [&str; 2] = ["weft.dev/demo", "weft.dev/proxy"];
const WEFT: &str = "/usr/local/bin/weft";
const PROXY: &str = "/usr/local/bin/weft-proxy";
const CHUNK: usize = 1 << 20;

// === impl OwnImages ===

impl OwnImages {
    /// Finds the image of these binaries, or makes it.
    pub(super) async fn ensure(
        docker: &Docker,
        weft: &Path,
        proxy: Option<&Path>,
    ) -> Result<Self, RuntimeError> {
        let (weft, proxy) = (weft.to_owned(), proxy.map(Path::to_owned));
        let has_proxy = proxy.is_some();
        let content = tokio::task::spawn_blocking(move || Content::gather(&weft, proxy.as_deref())).await;
        let content = content
            .map_err(|error| RuntimeError::Failed(error.to_string()))?
            .map_err(RuntimeError::io("read our own binaries"))?;
        let tag = content.tag.clone();
        let reference = format!("{REPOSITORY}:{tag}");
        match docker.inspect_image(&reference).await {
            Ok(_) => {}
            Err(Error::DockerResponseServerError { status_code: 404, .. }) => import(docker, content).await?,
            Err(other) => return Err(engine::error(other)),
        }
        for name in NAMES {
            let options = TagImageOptionsBuilder::default().repo(name).tag("latest").build();
            docker.tag_image(&reference, Some(options)).await.map_err(engine::error)?;
        }
        Ok(Self { reference, has_proxy })
    }

    pub(super) fn reference(&self) -> &str {
        &self.reference
    }

    /// The command of a sandbox.
    pub(super) fn pause(&self) -> Vec<String> {
        vec![WEFT.into(), "pause".into()]
    }

    pub(super) fn image(&self, name: &str, own: OwnImage) -> Image {
        let entrypoint: &[&str] = match own {
            OwnImage::Demo => &[WEFT, "demo"],
            OwnImage::Proxy if self.has_proxy => &[PROXY],
            OwnImage::Proxy => &[WEFT, "proxy"],
        };
        Image {
            name: name.to_owned(),
            id: format!("docker://{}", self.reference),
            entrypoint: entrypoint.iter().map(|&word| word.to_owned()).collect(),
            origin: ImageOrigin::Present,
        }
    }
}

/// Finds an image that a pod names, or pulls it.
pub(super) async fn ensure(
    docker: &Docker,
    name: &str,
    policy: PullPolicy,
    pulling: &(dyn Fn() + Sync),
) -> Result<Image, ImageError> {
    if name.is_empty() || name.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(ImageError::InvalidName(name.to_owned()));
    }
    let mut origin = ImageOrigin::Present;
    let present = find(docker, name).await?;
    let id = match (present, policy) {
        (Some(id), PullPolicy::IfNotPresent | PullPolicy::Never) => id,
        (None, PullPolicy::Never) => return Err(ImageError::NeverPull(name.to_owned())),
        (_, PullPolicy::Always) | (None, PullPolicy::IfNotPresent) => {
            pulling();
            let begun = Instant::now();
            pull(docker, name).await?;
            origin = ImageOrigin::Pulled(begun.elapsed());
            find(docker, name).await?.ok_or_else(|| ImageError::Pull {
                image: name.to_owned(),
                reason: "it is not there after it was pulled".into(),
            })?
        }
    };
    Ok(Image { name: name.to_owned(), id: format!("docker://{id}"), entrypoint: Vec::new(), origin })
}

async fn find(docker: &Docker, name: &str) -> Result<Option<String>, ImageError> {
    match docker.inspect_image(name).await {
        Ok(found) => Ok(found.id),
        Err(Error::DockerResponseServerError { status_code: 404, .. }) => Ok(None),
        Err(Error::DockerResponseServerError { status_code: 400, .. }) => {
            Err(ImageError::InvalidName(name.to_owned()))
        }
        Err(other) => Err(ImageError::Runtime(engine::error(other))),
    }
}

async fn pull(docker: &Docker, name: &str) -> Result<(), ImageError> {
    // Without a tag the Engine would pull all of them.
    let tagged = name.contains('@') || name.rsplit('/').next().is_some_and(|last| last.contains(':'));
    let full = if tagged { name.to_owned() } else { format!("{name}:latest") };
    let options = CreateImageOptionsBuilder::default().from_image(&full).build();
    let mut progress = Box::pin(docker.create_image(Some(options), None, None));
    while let Some(step) = progress.next().await {
        step.map_err(|error| match engine::error(error) {
            error @ RuntimeError::Unavailable(_) => ImageError::Runtime(error),
            error => ImageError::Pull { image: name.to_owned(), reason: error.to_string() },
        })?;
    }
    Ok(())
}

/// What the image is made of.
struct Content {
    /// Path in the image and file of this machine.
    files: Vec<(PathBuf, PathBuf)>,
    /// Directories with shared libraries.
    libraries: String,
    tag: String,
}

// === impl Content ===

impl Content {
    fn gather(weft: &Path, proxy: Option<&Path>) -> io::Result<Self> {
        let mut files = vec![(PathBuf::from(WEFT), weft.to_owned())];
        files.extend(proxy.map(|proxy| (PathBuf::from(PROXY), proxy.to_owned())));
        if let Some(loader) = interpreter(weft)? {
            files.push((loader.clone(), loader));
        }
        let maps = std::fs::read_to_string("/proc/self/maps")?;
        let mut directories = BTreeSet::new();
        for library in shared_libraries(&maps) {
            directories.extend(library.parent().map(|parent| parent.to_string_lossy().into_owned()));
            files.push((library.clone(), library));
        }
        let libraries = Vec::from_iter(directories).join(":");
        let tag = hash(&files)?;
        Ok(Self { files, libraries, tag })
    }

    fn write(&self, output: impl Write) -> io::Result<()> {
        let mut archive = tar::Builder::new(output);
        archive.mode(tar::HeaderMode::Deterministic);
        for (path, source) in &self.files {
            let mut file = File::open(source)?;
            let mut header = tar::Header::new_gnu();
            header.set_size(file.metadata()?.len());
            header.set_mode(0o755);
            let inside = path.strip_prefix("/").unwrap_or(path);
            archive.append_data(&mut header, inside, &mut file)?;
        }
        let users = "root:x:0:0:root:/:/sbin/nologin\nweft:x:1337:1337:weft:/:/sbin/nologin\n";
        let groups = "root:x:0:\nweft:x:1337:\n";
        for (path, text) in
            [("etc/passwd", users), ("etc/group", groups), ("etc/nsswitch.conf", "hosts: files dns\n")]
        {
            let mut header = tar::Header::new_gnu();
            header.set_size(text.len() as u64);
            header.set_mode(0o644);
            archive.append_data(&mut header, path, text.as_bytes())?;
        }
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_size(0);
        header.set_mode(0o1777);
        archive.append_data(&mut header, "tmp/", io::empty())?;
        archive.into_inner()?.flush()
    }
}

async fn import(docker: &Docker, content: Content) -> Result<(), RuntimeError> {
    let begun = Instant::now();
    let options = CreateImageOptionsBuilder::default()
        .from_src("-")
        .repo(REPOSITORY)
        .tag(&content.tag)
        .changes(vec![
            format!("ENV LD_LIBRARY_PATH={}", content.libraries),
            "ENV PATH=/usr/local/bin:/usr/bin:/bin".into(),
            format!("ENTRYPOINT [\"{WEFT}\"]"),
        ])
        .build();
    let (sender, receiver) = mpsc::channel(4);
    let writing = tokio::task::spawn_blocking(move || {
        let mut pipe = io::BufWriter::with_capacity(CHUNK, Pipe(sender.clone()));
        if let Err(error) = content.write(&mut pipe).and_then(|()| pipe.flush()) {
            // Half an archive must not become an image.
            let _ = sender.blocking_send(Err(error));
        }
    });
    let body = body_try_stream(ReceiverStream::new(receiver));
    let done = docker
        .create_image(Some(options), Some(body), None)
        .try_for_each(|_| std::future::ready(Ok(())))
        .await;
    writing.await.map_err(|error| RuntimeError::Failed(error.to_string()))?;
    done.map_err(engine::error)?;
    tracing::info!(took = ?begun.elapsed(), "made the image of our own binaries");
    Ok(())
}

/// Writes into a channel.
struct Pipe(mpsc::Sender<io::Result<Bytes>>);

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let sent = self.0.blocking_send(Ok(Bytes::copy_from_slice(bytes)));
        sent.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn hash(files: &[(PathBuf, PathBuf)]) -> io::Result<String> {
    #[expect(
        deprecated,
        reason = "the only hasher of std whose output is the same in every process and release"
    )]
    let mut hasher = std::hash::SipHasher::new();
    let mut buffer = vec![0; CHUNK];
    for (path, source) in files {
        hasher.write(path.as_os_str().as_encoded_bytes());
        let mut file = File::open(source)?;
        loop {
            let read = file.read(&mut buffer)?;
            if read == 0 {
                break;
            }
            hasher.write(&buffer[..read]);
        }
    }
    Ok(format!("{:016x}", hasher.finish()))
}

/// The files that a process has mapped as code and that are shared libraries.
fn shared_libraries(maps: &str) -> BTreeSet<PathBuf> {
    maps.lines()
        .filter_map(|line| line.splitn(6, ' ').nth(5))
        .map(str::trim)
        .filter(|path| path.starts_with('/'))
        .map(PathBuf::from)
        .filter(|path| {
            path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.contains(".so"))
        })
        .collect()
}

/// The loader that an ELF binary asks for; `None` for a static one.
fn interpreter(binary: &Path) -> io::Result<Option<PathBuf>> {
    let mut start = vec![0; 4096];
    let mut file = File::open(binary)?;
    let read = file.read(&mut start)?;
    Ok(parse_interpreter(&start[..read]))
}

fn parse_interpreter(elf: &[u8]) -> Option<PathBuf> {
    // 64-bit, little endian; the program headers and the loader's name are in the first page of every real binary.
    if elf.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let u64_at = |at: usize| Some(u64::from_le_bytes(elf.get(at..at.checked_add(8)?)?.try_into().ok()?));
    let u16_at = |at: usize| Some(u16::from_le_bytes(elf.get(at..at.checked_add(2)?)?.try_into().ok()?));
    let headers = usize::try_from(u64_at(32)?).ok()?;
    let (size, count) = (usize::from(u16_at(54)?), usize::from(u16_at(56)?));
    const PT_INTERP: [u8; 4] = 3u32.to_le_bytes();
    let header = (0..count)
        .filter_map(|index| headers.checked_add(index * size))
        .find(|at| elf.get(*at..at.saturating_add(4)) == Some(&PT_INTERP))?;
    let offset = usize::try_from(u64_at(header + 8)?).ok()?;
    let length = usize::try_from(u64_at(header + 32)?).ok()?;
    let name = elf.get(offset..offset.checked_add(length)?)?;
    let name = std::str::from_utf8(name).ok()?.trim_end_matches('\0');
    Some(PathBuf::from(name)).filter(|path| path.is_absolute())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_found_among_mappings_and_once_each() {
        let maps = "\
            55d0-55d1 r--p 0 08:01 1    /srv/target/debug/weft\n\
            7f00-7f01 r--p 0 08:01 2    /usr/lib/x86_64-linux-gnu/libc.so.6\n\
            7f01-7f02 r-xp 1 08:01 2    /usr/lib/x86_64-linux-gnu/libc.so.6\n\
            7f02-7f03 rw-p 0 00:00 0 \n\
            7ffc-7ffd r-xp 0 00:00 0    [vdso]\n";
        let libraries = shared_libraries(maps);
        assert_eq!(Vec::from_iter(libraries), [PathBuf::from("/usr/lib/x86_64-linux-gnu/libc.so.6")]);
    }

    #[test]
    fn the_loader_of_a_real_binary_is_found() {
        let ours = std::env::current_exe().expect("we run");
        let loader = interpreter(&ours).expect("readable").expect("dynamic");
        assert!(loader.exists(), "{}", loader.display());
    }

    #[test]
    fn what_is_no_binary_has_no_loader() {
        for bytes in [b"".as_slice(), b"#!/bin/sh\n", b"\x7fELF\x02\x01", &[0xff; 64]] {
            assert_eq!(parse_interpreter(bytes), None);
        }
    }
}
