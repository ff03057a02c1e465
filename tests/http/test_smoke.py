async def test_demo_lists_what_was_created(serve):
    """A row that POST made is in the next list."""
    client = await serve()
    response = await client.post("/tasks/", json={"title": "one"})
    assert response.status == 201, await response.text()
    response = await client.get("/tasks/")
    body = await response.json()
    assert [row["title"] for row in body["results"]] == ["one"]
    assert response.headers["X-Stream-Position"]
