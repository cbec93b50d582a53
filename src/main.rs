//! The binary: hands over to the command line.

fn main() -> std::process::ExitCode {
    // SAFETY: nothing has run yet, so no other thread reads the environment or allocates.
    unsafe {
        infinit::transport::tls::forget_key_log_file();
        keep_freed_memory();
    }
    infinit::cli::main(std::env::args_os())
}

/// Lets the allocator keep what is freed: receive and payload buffers of some hundred KiB come and go with every
/// request, and by default the C library gives each back to the kernel and faults it in again.
///
/// # Safety
/// Call it before any other thread exists.
unsafe fn keep_freed_memory() {
    const KEPT_BYTES: libc::c_int = 64 << 20;
    const OWN_MAPPING_BYTES: libc::c_int = 16 << 20;
    // SAFETY: the caller promises that no other thread allocates. A refusal leaves the defaults, which are only slower.
    unsafe {
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT_BYTES);
        libc::mallopt(libc::M_MMAP_THRESHOLD, OWN_MAPPING_BYTES);
    }
}
