"""Executors in containers: which engine a host has, its images, and the process that stands for an executor in one."""
