"""JSON Schemas: what each service's dialect knows, and whether a value keeps to one."""
