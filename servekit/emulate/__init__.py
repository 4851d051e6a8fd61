"""Platforms' control planes on this machine: real state, real checks, faults on request."""
