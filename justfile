# The same verbs for those who have `just`. Nothing requires it: each line is the command itself.

# Show what there is.
default:
    @just --list

# The whole story: machines, one file, faults, heals, a table.
demo *ARGS:
    cargo demo {{ARGS}}

# One fault, in a lab that stays up with this checkout's operator: `just one web-lost`.
one FAULT *ARGS:
    cargo demo --one {{FAULT}} {{ARGS}}

# The lab as a tool: up, status, break, mend, exec, ssh, operator, down.
lab *ARGS:
    cargo lab {{ARGS}}

# The whole operator in simulated worlds: --seeds, --seed, --mutations.
sim *ARGS:
    cargo sim {{ARGS}}

# Every test.
test *ARGS:
    cargo test --workspace --locked {{ARGS}}

# Format the code.
fmt:
    cargo fmt --all

# Formatting and lints, as .ci/run checks them.
lint:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets --locked -- -D warnings

# The code's own documentation, what is private included; warnings are errors.
doc:
    RUSTDOCFLAGS="-D warnings -A rustdoc::private-intra-doc-links" cargo doc --workspace --no-deps --document-private-items --locked

# Every check, as the pipeline runs it.
ci:
    .ci/run

# Write the definitions anew from the types: crds/yaml and the chart's crds.
crds:
    cargo run --locked --package binder-crds
