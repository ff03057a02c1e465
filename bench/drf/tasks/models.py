"""The tables, which are there already."""

import uuid

from django.db import models


class Author(models.Model):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    name = models.CharField(max_length=100)
    email = models.EmailField()
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        managed = False
        db_table = "authors"
        ordering = ["-created_at", "id"]


class Task(models.Model):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    title = models.CharField(max_length=200)
    description = models.TextField(default="", blank=True)
    completed = models.BooleanField(default=False)
    priority = models.CharField(max_length=10, choices=[(p, p) for p in ("low", "normal", "high")], default="normal")
    view_count = models.IntegerField(default=0)
    author = models.ForeignKey(Author, models.CASCADE, related_name="tasks")
    due_date = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        managed = False
        db_table = "tasks"
        ordering = ["-created_at", "id"]
