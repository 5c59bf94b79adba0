"""The panels of the report: from a run to charts. One function a section; each panel says how to read it."""
