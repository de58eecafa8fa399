"""Aids for tests: fakes, strategies for property tests, conformance suites, the stack fixture.

May import anything; nothing in ``src`` imports it.
"""
