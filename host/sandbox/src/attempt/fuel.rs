//! Charges host calls: wasmtime charges none.

use wasmtime::{Result, StoreContextMut, Trap};

use crate::attempt::state::State;

/// Charges the fuel of one host call, so that a flood of calls runs out of fuel as any loop does.
pub(crate) fn charge(caller: &mut StoreContextMut<'_, State>, bytes: usize) -> Result<()> {
    let per_byte = caller.data().charge.byte;
    charge_at(caller, bytes, per_byte)
}

/// Charges the fuel of bytes that a call hands to the guest; the call itself was charged.
pub(crate) fn charge_bytes(caller: &mut StoreContextMut<'_, State>, bytes: usize) -> Result<()> {
    let per_byte = caller.data().charge.byte;
    take(caller, per_byte.saturating_mul(bytes as u64))
}

/// The same of a call, at a price of its own for each byte.
pub(crate) fn charge_at(caller: &mut StoreContextMut<'_, State>, bytes: usize, per_byte: u64) -> Result<()> {
    let cost = caller.data().charge.call.saturating_add(per_byte.saturating_mul(bytes as u64));
    take(caller, cost)
}

fn take(caller: &mut StoreContextMut<'_, State>, cost: u64) -> Result<()> {
    match caller.get_fuel()?.checked_sub(cost) {
        Some(left) => caller.set_fuel(left),
        None => {
            caller.set_fuel(0)?;
            Err(Trap::OutOfFuel.into())
        }
    }
}
