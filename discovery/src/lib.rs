//! Where endpoints come from, and the DNS server of the mesh.
