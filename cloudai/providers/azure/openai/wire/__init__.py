"""Pure encode and decode: cloudai's values into the vendor's JSON, and back. No I/O."""
