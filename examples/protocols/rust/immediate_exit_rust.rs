// SPDX-License-Identifier: Apache-2.0
//! The protocol immediate_exit as a VMM in Rust has it, measured beside the same in C.
//!
//! KVM reads `kvm_run.immediate_exit` in KVM_RUN, and a signal's handler writes it. A reference to
//! `kvm_run` that is held meanwhile makes that write undefined behaviour, and a compiler may use
//! this (rust-vmm/kvm, issue 373). So this file never makes such a reference: it writes the byte
//! through a pointer, atomically.
//!
//! Build it, then run it:
//!
//!     rustc --crate-type cdylib -C opt-level=2 -C panic=abort -C strip=symbols immediate_exit_rust.rs
//!     kickbench run rust.toml

use std::os::raw::c_int;
use std::sync::atomic::{compiler_fence, AtomicU8, Ordering};

#[repr(C)]
pub struct Vcpu {
    _opaque: [u8; 0],
}

#[repr(C)]
pub struct Kicker {
    _opaque: [u8; 0],
}

extern "C" {
    fn kb_foreign_immediate_exit(v: *mut Vcpu) -> *mut u8;
    fn kb_foreign_forget_kicks(v: *mut Vcpu);
    fn kb_foreign_request_kick(v: *mut Vcpu, k: *const Kicker);
    fn kb_foreign_kick_requested(v: *const Vcpu) -> bool;
    fn kb_foreign_send_signal(v: *const Vcpu, k: *const Kicker) -> c_int;
    fn kb_foreign_complete_io(v: *mut Vcpu) -> c_int;
}

/// Every write is this thread's own, or its handler's: only the compiler must keep the order.
unsafe fn set_immediate_exit(v: *mut Vcpu, value: u8) {
    let byte = kb_foreign_immediate_exit(v) as *const AtomicU8;
    (*byte).store(value, Ordering::Relaxed);
    compiler_fence(Ordering::SeqCst);
}

#[no_mangle]
pub unsafe extern "C" fn immediate_exit_rust_enter(v: *mut Vcpu) -> c_int {
    set_immediate_exit(v, 0);
    0
}

#[no_mangle]
pub unsafe extern "C" fn immediate_exit_rust_leave(v: *mut Vcpu) {
    set_immediate_exit(v, 0);
    kb_foreign_forget_kicks(v);
}

#[no_mangle]
pub unsafe extern "C" fn immediate_exit_rust_before_run(v: *mut Vcpu) -> bool {
    kb_foreign_kick_requested(v)
}

#[no_mangle]
pub unsafe extern "C" fn immediate_exit_rust_after_run(v: *mut Vcpu, error: c_int) -> bool {
    if error == 0 {
        return false;
    }
    set_immediate_exit(v, 0);
    kb_foreign_kick_requested(v)
}

#[no_mangle]
pub unsafe extern "C" fn immediate_exit_rust_handler(v: *mut Vcpu) {
    set_immediate_exit(v, 1);
}

#[no_mangle]
pub unsafe extern "C" fn immediate_exit_rust_finish_exit(v: *mut Vcpu) -> c_int {
    set_immediate_exit(v, 1);
    let error = kb_foreign_complete_io(v);
    set_immediate_exit(v, 0);
    error
}

#[no_mangle]
pub unsafe extern "C" fn immediate_exit_rust_kick(v: *mut Vcpu, k: *mut Kicker) -> c_int {
    kb_foreign_request_kick(v, k);
    kb_foreign_send_signal(v, k)
}
