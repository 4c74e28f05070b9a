//! Giving memory back to the system.

use std::{ffi::c_void, fs, ptr};

use nix::sys::mman::{MmapAdvise, madvise};

/// Gives back what only the start of the process needed: freed heap, and mapped pages of code and constants.
///
/// Reading a configuration takes some megabytes of heap, which the allocator keeps, and runs through code that traffic
/// never touches again. What is needed after all comes back from the page cache at its first use, for a microsecond a
/// piece. Where the system does not play along, nothing happens.
pub(crate) fn release_unused() {
    trim_heap();
    for Mapping { start, length } in
        unmodified_mappings(&fs::read_to_string("/proc/self/smaps").unwrap_or_default())
    {
        // SAFETY: the range is a mapping of a file that is not writable and of which the kernel says that no page was
        // ever modified, so all of it is as in the file, and for such a mapping MADV_DONTNEED means to read it from
        // there again (madvise(2)). Nothing unmaps the program or its libraries meanwhile: none is ever closed. Nothing
        // makes it writable either: the dynamic linker has done all of its work before `main` (the program is linked to
        // bind its symbols at the start).
        let _ = unsafe { madvise(start, length, MmapAdvise::MADV_DONTNEED) };
    }
}

/// Gives back heap that is free. Threads that allocate meanwhile may have to wait for some milliseconds.
#[cfg(target_env = "gnu")]
pub(crate) fn trim_heap() {
    // SAFETY: takes no pointer, and the allocator does its own locking (malloc_trim(3), MT-Safe).
    unsafe { nix::libc::malloc_trim(0) };
}

/// The allocator gives back by itself, or not at all.
#[cfg(not(target_env = "gnu"))]
pub(crate) fn trim_heap() {}

/// Pages of this process.
#[derive(Debug, PartialEq, Eq)]
struct Mapping {
    start: ptr::NonNull<c_void>,
    length: usize,
}

/// The mappings of files, in the text of proc_pid_smaps(5), that cannot be written and have no page of their own.
fn unmodified_mappings(smaps: &str) -> Vec<Mapping> {
    let mut found = Vec::new();
    let mut candidate = None;
    for line in smaps.lines() {
        match line.split_once(':') {
            Some(("Anonymous", amount)) => found.extend(candidate.take().filter(|_| amount.trim() == "0 kB")),
            Some((name, _)) if !name.contains(' ') => {}
            _ => candidate = read_only_file(line),
        }
    }
    found
}

/// Reads the first line of a mapping; `None` if it is not a private one of a file, without the right to write.
fn read_only_file(line: &str) -> Option<Mapping> {
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let permissions = words.next()?;
    let file = words.nth(3)?;
    if !matches!(permissions, "r-xp" | "r--p") || !file.starts_with('/') {
        return None;
    }
    let start = usize::from_str_radix(start, 16).ok()?;
    let length = usize::from_str_radix(end, 16).ok()?.checked_sub(start)?;
    Some(Mapping { start: ptr::NonNull::new(ptr::with_exposed_provenance_mut(start))?, length })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_unmodified_and_unwritable_mappings_of_files_count() {
        let mapping = |first: &str, anonymous: &str| {
            format!("{first}\nSize:      4 kB\nAnonymous:      {anonymous} kB\nVmFlags: rd ex mr mw me\n")
        };
        for (first, anonymous, counts) in [
            ("7f00-8f00 r-xp 00001000 fe:00 42    /usr/bin/it", "0", true),
            ("7f00-8f00 r--p 00001000 fe:00 42    /usr/bin/it", "0", true),
            ("7f00-8f00 r--p 00001000 fe:00 42    /usr/bin/it", "8", false),
            ("7f00-8f00 rw-p 00001000 fe:00 42    /usr/bin/it", "0", false),
            ("7f00-8f00 r-xp 00000000 00:00 0     [vdso]", "0", false),
            ("7f00-8f00 r--p 00000000 00:00 0", "0", false),
            ("nonsense", "0", false),
        ] {
            let found = unmodified_mappings(&mapping(first, anonymous));
            let found: Vec<_> = found.iter().map(|it| (it.start.as_ptr() as usize, it.length)).collect();
            assert_eq!(found, if counts { vec![(0x7f00, 0x1000)] } else { vec![] }, "{first}");
        }
    }

    #[test]
    fn the_program_goes_on_with_what_it_had() {
        let kept: Vec<u64> = (0..10_000).collect();
        release_unused();
        assert_eq!(kept.iter().sum::<u64>(), 49_995_000);
    }
}
